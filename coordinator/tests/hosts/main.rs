//! A cluster whose processes run on hosts of their own: network namespaces that are joined by a switch, whose cables are pulled while a
//! picture is made.
//!
//! Needs root and iproute2's `ip`. Where either is missing the tests say so and check nothing; where both are there, a network that cannot
//! be made is a failure.

#![allow(clippy::unwrap_used)]

mod cluster;
mod faults;
mod network;

// Each test binary is a crate of its own, and this one does not use all of it.
#[allow(dead_code)]
#[path = "../cli/harness.rs"]
mod harness;
#[path = "../cli/likeness.rs"]
mod likeness;
