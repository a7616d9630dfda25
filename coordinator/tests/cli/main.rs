//! The program as a user meets it: the built binary, its exit codes, what it prints and what it leaves behind.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod benchmarks;
mod durable;
mod harness;
mod likeness;
mod losses;
mod own_cluster;
mod scaling;
mod served_cluster;
