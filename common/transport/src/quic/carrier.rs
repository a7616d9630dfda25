//! Carries one link over its two connections, from the moment that it is made until both are closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::control::{self, ToStream};
use super::data::{self, ToStreams};
use super::failure::{self, FAREWELL_CODE};
use super::protocol::LINK_MADE;
use crate::PeerName;
use crate::link::{
    Admission, CloseReason, Core, DRAIN_DEADLINE, Farewell, Incoming, Link, Outgoing, OutgoingTensor, open, pump,
};

/// How long a side that closes waits until everything is sent and acknowledged: the queue's own deadline and a round
/// trip.
const FAREWELL_DEADLINE: Duration = DRAIN_DEADLINE.saturating_mul(2);

/// What a link is made of.
pub(super) struct Connections {
    pub(super) peer: PeerName,
    pub(super) control: Connection,
    pub(super) control_streams: (SendStream, RecvStream),
    pub(super) data: Connection,
}

/// Which side of a new link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Owes the other the answer that the link is made.
    Accepting,
    Dialling,
}

/// Starts the carriers of a node's links and ends them together.
#[derive(Clone)]
pub(super) struct Carriers {
    runtime: Handle,
    stopping: watch::Sender<bool>,
    open_links: watch::Sender<usize>,
}

impl Carriers {
    /// Carries links on the current runtime.
    pub(super) fn new() -> Self {
        Self { runtime: Handle::current(), stopping: watch::Sender::new(false), open_links: watch::Sender::new(0) }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Makes a link. Its carrier ends when it closes.
    pub(super) fn start(&self, connections: Connections, side: Side, admission: Arc<dyn Admission>) -> Link {
        let address = connections.control.remote_address();
        let (link, outgoing, incoming) = open(connections.peer.clone(), Some(address), admission);
        self.open_links.send_modify(|count| *count += 1);
        let guard = CarrierGuard { core: Arc::clone(&outgoing.core), open_links: self.open_links.clone() };
        self.runtime.spawn(carry(connections, side, outgoing, incoming, (self.stopping.subscribe(), guard)));
        link
    }

    /// Closes all links in peace and waits until they are closed, or for as long as they may take.
    pub(super) async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut open_links = self.open_links.subscribe();
        let all_closed = open_links.wait_for(|&count| count == 0);
        if tokio::time::timeout(FAREWELL_DEADLINE + DRAIN_DEADLINE, all_closed).await.is_err() {
            tracing::debug!("stopping although links are still open");
        }
    }
}

async fn carry(
    connections: Connections,
    side: Side,
    outgoing: Outgoing,
    incoming: Incoming,
    (mut stopping, _guard): (watch::Receiver<bool>, CarrierGuard),
) {
    let Connections { control, control_streams: (send, receive), data, .. } = connections;
    let core = Arc::clone(&outgoing.core);
    let mut readers = JoinSet::new();
    readers.spawn(control::read(receive, incoming.clone()));
    readers.spawn(data::read(data.clone(), incoming));
    let mut writers = JoinSet::new();
    writers.spawn(write_control(Arc::clone(&core), side, outgoing.control, ToStream(send)));
    writers.spawn(write_tensors(Arc::clone(&core), outgoing.tensors, ToStreams::new(data.clone())));

    tokio::select! {
        _ = core.closed() => {}
        error = control.closed() => core.finish(failure::close_reason(&error)),
        error = data.closed() => core.finish(failure::close_reason(&error)),
        // An error means that nobody can stop this node any more.
        Ok(_) = stopping.wait_for(|&stopping| stopping) => core.finish(CloseReason::ClosedByUs(Farewell::Done)),
    }
    let reason = core.closed().await;
    tracing::debug!(peer = %core.peer, %reason, "link closed");
    match reason.farewell() {
        Some(farewell) => {
            if matches!(reason, CloseReason::ClosedByUs(_)) {
                let sent = async { while writers.join_next().await.is_some() {} };
                if tokio::time::timeout(FAREWELL_DEADLINE, sent).await.is_err() {
                    tracing::debug!(peer = %core.peer, "closed before the peer had acknowledged everything");
                }
            }
            close_both(&control, &data, &farewell);
        }
        None => {
            // The peer closes one connection after the other. What it sent before is read to its end on both.
            let both = async { tokio::join!(control.closed(), data.closed()) };
            if tokio::time::timeout(DRAIN_DEADLINE, both).await.is_err() {
                tracing::debug!(peer = %core.peer, "one connection of a lost link was still open");
            }
            close_both(&control, &data, &Farewell::Done);
            let read_to_the_end = async { while readers.join_next().await.is_some() {} };
            tokio::select! {
                () = read_to_the_end => {}
                // A user who holds a receiver and does not read must not keep the node from stopping.
                Ok(_) = stopping.wait_for(|&stopping| stopping) => {}
            }
        }
    }
}

/// Writes control frames until the link closes; if it closes in peace, until the peer has them all.
async fn write_control(core: Arc<Core>, side: Side, mut queue: mpsc::Receiver<Bytes>, mut stream: ToStream) {
    if side == Side::Accepting {
        // Fails only with the connection, whose end is watched.
        let _ = stream.0.write_all(&[LINK_MADE]).await;
    }
    pump(&core, &mut queue, &mut stream).await;
    // The queue may have ended because nobody sends any more while the receivers are still in use: the stream stays
    // open for them.
    if matches!(core.closed().await, CloseReason::ClosedByUs(_)) {
        stream.finish().await;
    }
}

/// Writes tensors until the link closes; if it closes in peace, until the peer has them all.
async fn write_tensors(core: Arc<Core>, mut queue: mpsc::Receiver<OutgoingTensor>, mut streams: ToStreams) {
    pump(&core, &mut queue, &mut streams).await;
    if matches!(core.closed().await, CloseReason::ClosedByUs(_)) {
        streams.finish().await;
    }
}

fn close_both(control: &Connection, data: &Connection, farewell: &Farewell) {
    let reason = farewell.to_wire();
    control.close(FAREWELL_CODE, &reason);
    data.close(FAREWELL_CODE, &reason);
}

/// Says when a carrier has ended, also when it is dropped with its runtime.
struct CarrierGuard {
    core: Arc<Core>,
    open_links: watch::Sender<usize>,
}

impl Drop for CarrierGuard {
    fn drop(&mut self) {
        self.core.finish(CloseReason::ClosedByUs(Farewell::Done));
        self.open_links.send_modify(|count| *count -= 1);
    }
}
