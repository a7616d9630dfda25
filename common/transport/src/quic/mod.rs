//! Links over QUIC with mutual TLS 1.3.
//!
//! ```text
//!   process A                                          process B
//!   control endpoint ── control connection: one bidirectional stream, frames in order ── control endpoint
//!   data endpoint    ── data connection: one unidirectional stream per tensor         ── data endpoint
//! ```
//!
//! Two connections per peer, each on an endpoint of its own, because QUIC's send window is shared by all streams of a
//! connection: behind bulk, a control message waited up to 168 ms on the same connection and 13 ms on its own.
//! Each endpoint runs on an OS thread of its own: a compute kernel that blocks an actor's thread does not starve
//! keep-alives, and neither does bulk.
//!
//! How a link is made: the dialler opens both connections, the control stream and one data stream, and writes the
//! link's random number on both. The acceptor pairs the two by the number *and* the certificate's name, and answers on
//! the control stream, with an offer to share memory that a dialler of the same host takes up.

mod accept;
mod carrier;
mod config;
mod control;
mod data;
mod dial;
mod driver;
mod endpoint;
mod enrol;
mod failure;
mod limit;
mod network;
mod node;
mod pairing;
mod protocol;
mod silence;
mod socket;
mod thread;

#[cfg(test)]
pub(crate) mod tests;

pub use config::{Congestion, LinkTiming, QuicConfig, SharedMemory};
pub use dial::ConnectError;
pub use enrol::{EnrolError, Enrolment, enrol};
pub use limit::{LinkLimit, ParseLimitError};
pub use node::{Dialler, IncomingLink, QuicNode, StartError};
pub use protocol::WIRE_VERSION;
