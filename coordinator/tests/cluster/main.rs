//! A whole cluster in one process, on simulated links and, where time matters, a paused clock.

#![allow(clippy::unwrap_used)]

mod bits;
mod bystanders;
mod chaos;
mod encodings;
mod exactness;
mod failures;
mod links;
mod measured_links;
mod misbehaviour;
mod moving;
mod pictures;
mod queueing;
mod restarts;
mod side_by_side;
mod support;
mod unequal;
mod weights;
