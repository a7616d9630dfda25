//! A network that misbehaves on purpose: wraps both ends of a link of any kind and delays, reorders, slows or cuts it.
//!
//! ```text
//!   outer end A ──► stage A→B ──► inner A ~~~ inner link ~~~ inner B ──► outer end B
//! ```
//!
//! It behaves as links over QUIC do: whatever happens, frames are not lost one by one. A cut holds them back, and when
//! it lasts longer than the time after which a peer counts as lost, both ends learn that. Time is tokio's, so a paused
//! clock works; chance comes from one printed seed.

mod network;
mod script;
mod stage;
#[cfg(test)]
mod tests;

pub use network::{FaultyNetwork, wrap};
pub use script::{Change, Direction, FaultScript, Faults};
