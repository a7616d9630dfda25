//! What is particular to links over QUIC: trust, enrolment, limits, priorities, strangers, loss.

mod enrolment;
mod limits;
mod loss;
mod priority;
mod strangers;
mod trust;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::{LinkTiming, QuicConfig, QuicNode, SharedMemory};
use crate::identity::{ClusterAuthority, Identity};
use crate::link::{Admission, AdmitEverything, Link};
use crate::{PeerName, WorkerName};

/// Where tests listen.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An authority and the processes that it certifies.
pub(crate) struct Cluster {
    pub(crate) authority: Arc<ClusterAuthority>,
    pub(crate) timing: LinkTiming,
    pub(crate) shared_memory: SharedMemory,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let authority = Arc::new(ClusterAuthority::ephemeral().unwrap());
        Self { authority, timing: LinkTiming::default(), shared_memory: SharedMemory::Unused }
    }

    /// Its processes share memory.
    pub(crate) fn of_one_host() -> Self {
        Self { shared_memory: SharedMemory::Used, ..Self::new() }
    }

    /// Loses peers and gives up handshakes soon.
    pub(crate) fn impatient() -> Self {
        let timing = LinkTiming {
            control_idle: Duration::from_millis(400),
            control_keep_alive: Duration::from_millis(80),
            handshake: Duration::from_millis(400),
            ..LinkTiming::default()
        };
        Self { timing, ..Self::new() }
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.authority.local_worker_identity(&WorkerName::new(name).unwrap()).unwrap()
    }

    pub(crate) fn config(&self, identity: Identity) -> QuicConfig {
        let (timing, shared_memory) = (self.timing, self.shared_memory);
        QuicConfig { timing, shared_memory, ..QuicConfig::new(identity, LOOPBACK) }
    }

    pub(crate) async fn worker(&self, name: &str) -> QuicNode {
        QuicNode::start(self.config(self.identity(name))).await.unwrap()
    }

    /// A coordinator that enrols.
    pub(crate) async fn coordinator(&self) -> QuicNode {
        let mut config = self.config(self.authority.coordinator_identity().unwrap());
        config.enrolment = Some(Arc::clone(&self.authority) as Arc<_>);
        QuicNode::start(config).await.unwrap()
    }
}

/// Links worker "a" (the first) to worker "b", which "a" dials.
pub(crate) async fn join(
    first: &QuicNode,
    second: &QuicNode,
    first_admission: Arc<dyn Admission>,
    second_admission: Arc<dyn Admission>,
) -> (Link, Link) {
    let name = PeerName::worker("b").unwrap();
    let dialling = first.connect(&name, second.control_address(), second.data_address(), first_admission);
    let accepting = async { second.accept().await.unwrap().accept(second_admission) };
    let (dialled, accepted) = tokio::join!(dialling, accepting);
    (dialled.unwrap(), accepted)
}

/// As [`join`], admitting everything.
pub(crate) async fn join_openly(first: &QuicNode, second: &QuicNode) -> (Link, Link) {
    join(first, second, Arc::new(AdmitEverything), Arc::new(AdmitEverything)).await
}
