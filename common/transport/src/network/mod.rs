//! How a process reaches others, whatever carries it: actors know this trait and no socket.
//!
//! ```text
//!   Network::connect(peer, endpoint, admission) ──► Link      the dialler's end
//!   Network::accept() ──► Incoming ── accept(admission) ──► Link      the other's
//! ```
//!
//! [`QuicNode`](crate::quic::QuicNode) carries it between processes, [`SimulatedNetwork`] between any number of named processes in one program.

mod simulated;

use std::pin::Pin;
use std::sync::Arc;

use asyncdiff_common::wire::Endpoint;
use thiserror::Error;

use crate::PeerName;
use crate::link::{Admission, Link};

pub use simulated::{SimulatedNetwork, SimulatedProcess};

/// A future behind a pointer, so that [`Network`] can be used as `dyn Network`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A process's way to others and theirs to it.
pub trait Network: Send + Sync + 'static {
    /// Where others reach this process. An empty host: at the address that they see.
    fn endpoint(&self) -> Endpoint;

    /// Opens a link to a peer, which must prove that name. Has a deadline of its own.
    fn connect<'a>(
        &'a self,
        peer: &'a PeerName,
        endpoint: &'a Endpoint,
        admission: Arc<dyn Admission>,
    ) -> BoxFuture<'a, Result<Link, DialError>>;

    /// The next peer that opens a link to this process; `None` when the network has shut down. One caller at a time.
    fn accept(&self) -> BoxFuture<'_, Option<Incoming>>;
}

/// A peer, proven by its certificate, that opens a link. Dropping this refuses it.
#[must_use]
pub struct Incoming {
    peer: PeerName,
    finish: Box<dyn FnOnce(Arc<dyn Admission>) -> Link + Send>,
}

/// Why no link came to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DialError {
    /// The peer, or the way to it, refuses this process: trying again changes nothing.
    #[error("{peer} cannot be joined: {reason}")]
    Refused {
        /// Who was dialled.
        peer: PeerName,
        /// What was found, and what to do.
        reason: String,
    },
    /// Nobody answers there, for now.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Who was dialled.
        peer: PeerName,
        /// What was found.
        reason: String,
    },
}

impl Incoming {
    /// An incoming link that is finished by `finish` when its admission is known: for a network that wraps another one, too.
    pub fn new(peer: PeerName, finish: impl FnOnce(Arc<dyn Admission>) -> Link + Send + 'static) -> Self {
        Self { peer, finish: Box::new(finish) }
    }

    /// Who it is, by its certificate.
    #[must_use]
    pub fn peer(&self) -> &PeerName {
        &self.peer
    }

    /// Accepts the link; `admission` decides what the peer may send. Must be called on a tokio runtime.
    #[must_use]
    pub fn accept(self, admission: Arc<dyn Admission>) -> Link {
        (self.finish)(admission)
    }
}
