//! What all parts of one end of a link share: the peer, the counters, and whether and why it has closed.

use std::net::SocketAddr;

use tokio::sync::watch;

use super::counters::Counters;
use super::{CloseReason, Farewell};
use crate::PeerName;

/// One end of a link. Held by the carrier and, through [`Handle`], by every part that the user holds.
pub(crate) struct Core {
    pub(crate) peer: PeerName,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) counters: Counters,
    close: watch::Sender<Option<CloseReason>>,
}

impl Core {
    pub(crate) fn new(peer: PeerName, remote_address: Option<SocketAddr>) -> Self {
        Self { peer, remote_address, counters: Counters::default(), close: watch::Sender::new(None) }
    }

    /// The outer end of a link that is carried by another link.
    pub(crate) fn around(inner: &Self) -> Self {
        let (peer, counters) = (inner.peer.clone(), Counters::around(&inner.counters));
        Self { peer, remote_address: inner.remote_address, counters, close: watch::Sender::new(None) }
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
