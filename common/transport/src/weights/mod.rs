//! Serving parameters to those who lack them: a coordinator to its workers, a worker to others.
//!
//! ```text
//!   asker ── ask ──► Turns (who is next, how much may be in flight) ──► Pace (how fast) ──► read ──► link
//!   asker ── ask ──►   ▲                                                                     │
//!                      └──────────────── what the link has let go of ◄───────────────────────┘
//! ```
//!
//! Parameters give way: little of them is in flight on a link at a time, and what a job sends there overtakes it (by the priority of its
//! stream over QUIC, by a part of the ring that they may not use in shared memory).

mod pace;
mod server;
mod turns;

pub use server::{WeightAsker, WeightServer, WeightSource};
pub use turns::TooManyAsked;
