//! Plans, the engine and the inbox against the rules that they implement; no tensor, no clock.

#![allow(clippy::unwrap_used)]

mod encodings;
mod invariants;
mod planning;
mod resuming;
mod streams;
mod support;
