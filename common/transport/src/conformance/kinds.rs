//! The kinds of links.

use std::any::Any;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::until;
use crate::PeerName;
use crate::faulty::{self, FaultScript, Faults};
use crate::in_process::{self, End};
use crate::link::{Admission, Link, LinkKind};
use crate::quic;

/// Makes links of one kind.
pub(crate) trait Kind {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair;
}

/// Both ends of a link, and what must live as long.
pub(crate) struct Pair {
    pub(crate) first: Link,
    pub(crate) second: Link,
    pub(crate) support: Box<dyn Any + Send>,
}

pub(crate) struct InProcess;
pub(crate) struct PerfectFaulty;
pub(crate) struct Quic;
pub(crate) struct SharedMemory;
pub(crate) struct SlowFaulty;

impl Kind for InProcess {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
        let end = |name, admission| End { name: PeerName::worker(name).unwrap(), admission };
        let (first, second) = in_process::pair(end("a", first), end("b", second));
        Pair { first, second, support: Box::new(()) }
    }
}

impl Kind for PerfectFaulty {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
        faulty_pair(FaultScript::perfect(1), first, second).await
    }
}

impl Kind for SlowFaulty {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
        let faults = Faults {
            delay: Duration::from_millis(5),
            jitter: Duration::from_millis(50),
            bytes_per_second: NonZeroU64::new(100 << 20),
            cut: false,
        };
        faulty_pair(FaultScript::both_ways(2, &faults), first, second).await
    }
}

impl Kind for Quic {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
        let cluster = quic::tests::Cluster::new();
        let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
        let (first, second) = quic::tests::join(&a, &b, first, second).await;
        Pair { first, second, support: Box::new((a, b)) }
    }
}

impl Kind for SharedMemory {
    async fn pair(&self, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
        let cluster = quic::tests::Cluster::of_one_host();
        let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
        let (first, second) = quic::tests::join(&a, &b, first, second).await;
        until(|| [&first, &second].iter().all(|link| link.sender.kind() == LinkKind::SharedMemory)).await;
        Pair { first, second, support: Box::new((a, b)) }
    }
}

async fn faulty_pair(script: FaultScript, first: Arc<dyn Admission>, second: Arc<dyn Admission>) -> Pair {
    let inner = InProcess.pair(first, second).await;
    let (first, second, network) = faulty::wrap(inner.first, inner.second, script);
    Pair { first, second, support: Box::new((network, inner.support)) }
}
