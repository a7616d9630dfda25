//! What all parts of one end of a link share: the peer, the counters, and whether and why it has closed.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use super::counters::Counters;
use super::{CloseReason, Farewell, LinkKind};
use crate::PeerName;
use crate::shm::Lane;

/// One end of a link. Held by the carrier and, through [`Handle`], by every part that the user holds.
pub(crate) struct Core {
    pub(crate) peer: PeerName,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) counters: Counters,
    /// What carries frames where no lane does.
    carrier: LinkKind,
    /// Shared memory that carries tensors, once both ends have it.
    lane: OnceLock<Lane>,
    /// Whether the end of the lane has said that the peer's process has ended.
    has_process_ended: AtomicBool,
    close: watch::Sender<Option<CloseReason>>,
}

impl Core {
    pub(crate) fn new(peer: PeerName, remote_address: Option<SocketAddr>) -> Self {
        // Only links within one process have no address.
        let carrier = if remote_address.is_some() { LinkKind::Quic } else { LinkKind::InProcess };
        let (lane, has_process_ended) = (OnceLock::new(), AtomicBool::new(false));
        let (counters, close) = (Counters::default(), watch::Sender::new(None));
        Self { peer, remote_address, counters, carrier, lane, has_process_ended, close }
    }

    /// The outer end of a link that is carried by another link.
    pub(crate) fn around(inner: &Self) -> Self {
        let (peer, counters) = (inner.peer.clone(), Counters::around(&inner.counters));
        let (remote_address, carrier) = (inner.remote_address, inner.kind());
        let (lane, has_process_ended) = (OnceLock::new(), AtomicBool::new(false));
        Self { peer, remote_address, counters, carrier, lane, has_process_ended, close: watch::Sender::new(None) }
    }

    /// What carries this end's tensors.
    pub(crate) fn kind(&self) -> LinkKind {
        if self.lane.get().is_some() { LinkKind::SharedMemory } else { self.carrier }
    }

    pub(crate) fn lane(&self) -> Option<&Lane> {
        self.lane.get()
    }

    /// From now on tensors go through shared memory. A link has one lane at most.
    pub(crate) fn set_lane(&self, lane: Lane) {
        if self.lane.set(lane).is_err() {
            tracing::error!(peer = %self.peer, "a link got a second lane");
        }
    }

    /// Notes that the peer's process has ended, before the link is closed for it.
    pub(crate) fn note_process_end(&self) {
        self.has_process_ended.store(true, Ordering::Release);
    }

    pub(crate) fn has_process_ended(&self) -> bool {
        self.has_process_ended.load(Ordering::Acquire)
    }

    /// Closes this end. Only the first reason is kept: what follows are its consequences.
    pub(crate) fn finish(&self, reason: CloseReason) {
        self.close.send_if_modified(|current| {
            let is_first = current.is_none();
            if is_first {
                *current = Some(reason);
            }
            is_first
        });
    }

    pub(crate) fn reason(&self) -> Option<CloseReason> {
        self.close.borrow().clone()
    }

    /// Waits until this end has closed.
    pub(crate) async fn closed(&self) -> CloseReason {
        let mut watcher = self.close.subscribe();
        loop {
            if let Some(reason) = watcher.borrow_and_update().clone() {
                return reason;
            }
            if watcher.changed().await.is_err() {
                // The sender lives in `self`, which this future borrows; were it gone, so would be the link.
                return CloseReason::ClosedByUs(Farewell::Dropped);
            }
        }
    }
}

/// The user's share of a [`Core`]: the link closes when the last part that holds it is dropped.
pub(crate) struct Handle(pub(crate) std::sync::Arc<Core>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.finish(CloseReason::ClosedByUs(Farewell::Dropped));
    }
}
