//! Settings of a process's QUIC endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::WIRE_VERSION;
use super::enrol::Enrolment;
use super::limit::LinkLimit;
use crate::identity::Identity;

/// What a [`QuicNode`](super::QuicNode) is started with.
#[derive(Clone)]
pub struct QuicConfig {
    /// Where the control endpoint listens. Port 0 takes any free one.
    pub control_address: SocketAddr,
    /// Where the data endpoint listens. Port 0 takes any free one.
    pub data_address: SocketAddr,
    /// With what this process proves itself.
    pub identity: Identity,
    /// Who answers enrolments, on the control endpoint. `None` refuses everyone without a certificate in the handshake.
    pub enrolment: Option<Arc<dyn Enrolment>>,
    /// When things count as lost.
    pub timing: LinkTiming,
    /// How data connections share a network with others. Default: [`Congestion::Cubic`].
    pub congestion: Congestion,
    /// Whether tensors between processes of one host go through shared memory. Default: [`SharedMemory::Used`].
    pub shared_memory: SharedMemory,
    /// What a link may carry at most, in each direction. Default: none, and a link carries what the network does. With a limit tensors
    /// go over QUIC only, also within a host. For benchmarks of networks that are not there.
    pub limit: Option<LinkLimit>,
    /// The version that goes into the protocols' names. Default: [`WIRE_VERSION`]; anything else only tests what a
    /// stranger meets.
    pub wire_version: u16,
}

/// Deadlines of links. The defaults are those of [`LinkTiming::default`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTiming {
    /// Silence on the control connection after which it ends without a word. After three quarters of it the peer is lost,
    /// and told so. Default: 2 s. Less finds dead peers sooner and takes more pauses of a busy machine for death. At
    /// least four times [`control_keep_alive`](Self::control_keep_alive).
    pub control_idle: Duration,
    /// How often a silent control connection says that it lives. Default: 500 ms.
    pub control_keep_alive: Duration,
    /// As [`control_idle`](Self::control_idle), of the data connection. Default: 10 s: bulk may fill a slow network for
    /// seconds, and the control connection finds the dead.
    pub data_idle: Duration,
    /// As [`control_keep_alive`](Self::control_keep_alive), of the data connection. Default: 2 s.
    pub data_keep_alive: Duration,
    /// How long making a link or an enrolment may take, on either side. Default: 5 s, enough for a few lost packets on
    /// a bad network.
    pub handshake: Duration,
}

/// How a data connection decides how fast it may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// BBR: keeps its speed where packets get lost at random, and floods shallow queues. For long, lossy lines of one's
    /// own.
    Bbr,
    /// Cubic: fair to others, slow where packets get lost at random.
    #[default]
    Cubic,
}

/// Whether links within a host use shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedMemory {
    /// Everything goes over QUIC: to measure it and to test it.
    Unused,
    /// Offered to and taken up from every peer; where the two are not on one host, or the system does not let them,
    /// tensors go over QUIC.
    #[default]
    Used,
}

impl QuicConfig {
    /// A process that listens on any free ports of an address, with default settings.
    #[must_use]
    pub fn new(identity: Identity, address: std::net::IpAddr) -> Self {
        Self {
            control_address: SocketAddr::new(address, 0),
            data_address: SocketAddr::new(address, 0),
            identity,
            enrolment: None,
            timing: LinkTiming::default(),
            congestion: Congestion::default(),
            shared_memory: SharedMemory::default(),
            limit: None,
            wire_version: WIRE_VERSION,
        }
    }
}

impl LinkTiming {
    /// For benchmarks with more processes than cores: a machine that stands still for a second or ten is no peer's end. Who is lost is lost
    /// as late.
    #[must_use]
    pub fn patient() -> Self {
        let patience = Duration::from_secs(30);
        Self { control_idle: patience, data_idle: patience, handshake: patience, ..Self::default() }
    }
}

impl Default for LinkTiming {
    fn default() -> Self {
        Self {
            control_idle: Duration::from_secs(2),
            control_keep_alive: Duration::from_millis(500),
            data_idle: Duration::from_secs(10),
            data_keep_alive: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
        }
    }
}
