//! Carries one link over its two connections, from the moment that it is made until both are closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::config::{QuicConfig, SharedMemory};
use super::control::{self, ToStream};
use super::data::{self, ToStreams};
use super::failure::{self, FAREWELL_CODE};
use super::limit::{LimitedLink, LinkLimit};
use super::protocol::{LINK_MADE, LINK_MADE_WITH_OFFER};
use super::silence;
use crate::PeerName;
use crate::link::{
    Admission, CloseReason, Core, DRAIN_DEADLINE, Farewell, Incoming, Link, Outgoing, OutgoingTensor, open, pump,
};
use crate::shm::{self, Channel, LaneReader, LaneWriter, OFFER_BYTES, Offer, open_lane};

/// How long a side that closes waits until everything is sent and acknowledged: the queue's own deadline and a round
/// trip.
const FAREWELL_DEADLINE: Duration = DRAIN_DEADLINE.saturating_mul(2);

/// Silence on both connections after which nothing more is awaited of a process that has ended: all that it sent lies in this host's own
/// buffers, and is read within a millisecond by a thread that runs. More makes every killed worker of a host be noticed later.
const LAST_WORDS: Duration = Duration::from_millis(24);

/// What a link is made of.
pub(super) struct Connections {
    pub(super) peer: PeerName,
    pub(super) control: Connection,
    pub(super) control_streams: (SendStream, RecvStream),
    pub(super) data: Connection,
    /// What the acceptor offered to the dialler.
    pub(super) offer: Option<[u8; OFFER_BYTES]>,
}

/// Which side of a new link this is.
pub(super) enum Side {
    /// Owes the other the answer that the link is made.
    Accepting,
    /// Shares memory with the other, or not.
    Dialling(Option<Channel>),
}

/// How a link's carrier comes by a lane.
enum LaneStart {
    Absent,
    Offered(SharedMemory),
    Open(LaneReader, LaneWriter),
}

/// Starts the carriers of a node's links and ends them together.
#[derive(Clone)]
pub(super) struct Carriers {
    runtime: Handle,
    control: Handle,
    shared_memory: SharedMemory,
    limit: Option<LinkLimit>,
    /// Silence after which a peer is lost.
    patience: Duration,
    stopping: watch::Sender<bool>,
    open_links: watch::Sender<usize>,
}

impl Carriers {
    /// Carries links on the current runtime, but for their control frames.
    pub(super) fn new(control: &Handle, config: &QuicConfig) -> Self {
        let (runtime, stopping, open_links) = (Handle::current(), watch::Sender::new(false), watch::Sender::new(0));
        let limit = config.limit;
        let shared_memory = if limit.is_some() { SharedMemory::Unused } else { config.shared_memory };
        let patience = silence::patience(&config.timing);
        Self { runtime, control: control.clone(), shared_memory, limit, patience, stopping, open_links }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Takes an acceptor's offer up, if it is of this host.
    pub(super) async fn take_up(&self, offer: &[u8; OFFER_BYTES], peer: &PeerName) -> Option<Channel> {
        if self.shared_memory == SharedMemory::Unused {
            return None;
        }
        let channel = shm::take_up(offer).await;
        channel.inspect_err(|error| tracing::debug!(%peer, %error, "tensors go over QUIC")).ok()
    }

    /// Makes a link. Its carrier ends when it closes.
    pub(super) fn start(&self, connections: Connections, side: Side, admission: Arc<dyn Admission>) -> Link {
        let address = connections.control.remote_address();
        let (link, outgoing, incoming) = open(connections.peer.clone(), Some(address), admission);
        self.open_links.send_modify(|count| *count += 1);
        let guard = CarrierGuard { core: Arc::clone(&outgoing.core), open_links: self.open_links.clone() };
        let lane = match side {
            Side::Accepting => LaneStart::Offered(self.shared_memory),
            Side::Dialling(None) => LaneStart::Absent,
            Side::Dialling(Some(channel)) => {
                let (lane, reader, writer) = open_lane(channel);
                outgoing.core.set_lane(lane);
                LaneStart::Open(reader, writer)
            }
        };
        let limited = self.limit.map(LimitedLink::new).transpose().unwrap_or_else(|error| {
            let reason = format!("a limited link has no thread: {error}");
            outgoing.core.finish(CloseReason::on_our_side(Farewell::failed(&reason)));
            None
        });
        let streams = ToStreams::new(Arc::clone(&outgoing.core), connections.data.clone(), limited);
        self.runtime.spawn(carry(
            connections,
            lane,
            (outgoing, streams),
            incoming,
            (self.control.clone(), self.stopping.subscribe(), guard, self.patience),
        ));
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
    lane: LaneStart,
    (outgoing, streams): (Outgoing, ToStreams),
    incoming: Incoming,
    (control_runtime, mut stopping, _guard, patience): (Handle, watch::Receiver<bool>, CarrierGuard, Duration),
) {
    let Connections { control, control_streams: (send, receive), data, .. } = connections;
    let core = Arc::clone(&outgoing.core);
    let mut readers = JoinSet::new();
    readers.spawn_on(control::read(receive, incoming.clone()), &control_runtime);
    readers.spawn(data::read(data.clone(), incoming.clone()));
    let mut lane_writer = JoinSet::new();
    let (answer, offer) = match lane {
        LaneStart::Absent => (Vec::new(), None),
        LaneStart::Offered(shared_memory) => answer(shared_memory),
        LaneStart::Open(reader, writer) => {
            readers.spawn(reader.run(incoming.clone()));
            lane_writer.spawn(writer.run());
            (Vec::new(), None)
        }
    };
    let mut writers = JoinSet::new();
    let writing = write_control(Arc::clone(&core), answer, outgoing.control, ToStream(send));
    writers.spawn_on(writing, &control_runtime);
    writers.spawn(write_tensors(Arc::clone(&core), outgoing.tensors, streams));
    let accepting_lane = accept_lane(offer, incoming, &mut readers, &mut lane_writer);

    tokio::select! {
        _ = core.closed() => {}
        error = control.closed() => core.finish(failure::close_reason(&error)),
        error = data.closed() => core.finish(failure::close_reason(&error)),
        () = silence::wait(&control, patience) => {
            core.finish(silence::reason());
            // It may hear us all the same: said at once, on both.
            close_both(&control, &data, &silence::farewell());
        }
        () = accepting_lane => {}
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
            end_lane(&core, &mut lane_writer).await;
            close_both(&control, &data, &farewell);
        }
        None => {
            hear_out(&core, &control, &data).await;
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

/// Waits until nothing more comes of what a peer had sent before the link closed.
async fn hear_out(core: &Core, control: &Connection, data: &Connection) {
    // The peer closes one connection after the other. What it sent before is read to its end on both.
    let both = async { tokio::join!(control.closed(), data.closed()) };
    // A process that was killed closes neither.
    let last_words = async {
        if !core.has_process_ended() {
            std::future::pending::<()>().await;
        }
        tokio::join!(silence::wait(control, LAST_WORDS), silence::wait(data, LAST_WORDS));
    };
    let heard = async {
        tokio::select! { _ = both => {}, () = last_words => {} }
    };
    if tokio::time::timeout(DRAIN_DEADLINE, heard).await.is_err() {
        tracing::debug!(peer = %core.peer, "one connection of a lost link was still open");
    }
}

/// What the acceptor answers: that the link is made, and an offer to share memory if this process makes one.
fn answer(shared_memory: SharedMemory) -> (Vec<u8>, Option<Offer>) {
    let offer = match shared_memory {
        SharedMemory::Unused => None,
        SharedMemory::Used => Offer::new().inspect_err(|error| tracing::debug!(%error, "no memory is offered")).ok(),
    };
    match offer {
        Some(offer) => ([&[LINK_MADE_WITH_OFFER], &offer.to_wire()[..]].concat(), Some(offer)),
        None => (vec![LINK_MADE], None),
    }
}

/// Opens a lane if the peer takes the offer up. Never returns, so that it can run beside what waits for the link's end.
async fn accept_lane(
    offer: Option<Offer>,
    incoming: Incoming,
    readers: &mut JoinSet<()>,
    lane_writer: &mut JoinSet<()>,
) {
    if let Some(offer) = offer {
        let peer = &incoming.core.peer;
        match offer.accept().await {
            Ok(channel) => {
                let (lane, reader, writer) = open_lane(channel);
                readers.spawn(reader.run(incoming.clone()));
                lane_writer.spawn(writer.run());
                incoming.core.set_lane(lane);
                tracing::debug!(%peer, "tensors go through shared memory");
            }
            Err(error) => tracing::debug!(%peer, %error, "tensors go over QUIC"),
        }
    }
    std::future::pending().await
}

/// Says goodbye on the lane, so that the peer does not take its end for the end of this process.
async fn end_lane(core: &Core, lane_writer: &mut JoinSet<()>) {
    let Some(lane) = core.lane() else { return };
    let said = async {
        lane.say_goodbye();
        while lane_writer.join_next().await.is_some() {}
    };
    if tokio::time::timeout(DRAIN_DEADLINE, said).await.is_err() {
        tracing::debug!(peer = %core.peer, "the peer does not read its lane");
    }
}

/// Writes the answer that the acceptor owes, then control frames until the link closes; if it closes in peace, until the peer has them all.
async fn write_control(core: Arc<Core>, answer: Vec<u8>, mut queue: mpsc::Receiver<Bytes>, mut stream: ToStream) {
    // Fails only with the connection, whose end is watched.
    let _ = stream.0.write_all(&answer).await;
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
