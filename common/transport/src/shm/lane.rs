//! A lane: the tensors of one link through shared memory, both ways.
//!
//! Whoever reads the socket never waits for anything else, so that two ends that both send never wait for each other:
//! what arrives is handed to the user by a task of its own, and messages to the peer go through a queue that has room for
//! all that honest ends can owe each other.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use asyncdiff_common::wire::TensorName;
use bytes::Bytes;
use tokio::io::BufReader;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;

use super::handshake::Channel;
use super::memory::PeerMemory;
use super::message::{self, Message, Received, malformed};
use super::outbox::{LaneWriter, Outbox};
use super::ring::{Loan, Ring, Sent, copy_in_turns};
use super::{COPIED_OUT_BYTES, RING_BYTES, TENSORS_IN_FLIGHT};
use crate::link::{
    Admitted, CloseReason, DRAIN_DEADLINE, Incoming, LENGTH_BYTES, Misbehaviour, OutgoingTensor, TensorFrame,
    decode_header,
};

/// How long a tensor waits for room before it goes over QUIC: longer than a layer takes whose device will let go of
/// what it was sent, and short enough that a receiver that keeps tensors for good cannot stop a link.
const PATIENCE: Duration = Duration::from_millis(100);

/// Tensors of which the peer is told together that they are released: telling wakes a thread on either side, which costs more than
/// carrying a small tensor does.
const RELEASED_AT_ONCE: usize = 8;

/// No more bytes than this wait to be told of: a place that large is missed.
const RELEASED_AT_ONCE_BYTES: usize = 4 << 20;

/// The sender's part of a lane. Clones send on the same one.
#[derive(Clone)]
pub(crate) struct Lane {
    ring: Arc<Ring>,
    outbox: Arc<Outbox>,
}

/// The part that reads the socket.
pub(crate) struct LaneReader {
    lane: Lane,
    socket: BufReader<OwnedReadHalf>,
    peer: Arc<PeerMemory>,
    in_flight: Arc<InFlight>,
}

/// Tensors from the peer that are not yet released, and released ones that the peer has not heard of.
#[derive(Default)]
struct InFlight(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    tensors: usize,
    bytes: usize,
    released: Vec<u32>,
    released_bytes: usize,
}

/// The right of a tensor from the peer to its place; dropping it gives the place back.
struct Ticket {
    number: u32,
    bytes: usize,
    in_flight: Arc<InFlight>,
    outbox: Arc<Outbox>,
}

/// A payload that is used where the peer has put it.
struct InPlace {
    peer: Arc<PeerMemory>,
    range: Range<usize>,
    _ticket: Ticket,
}

/// A tensor for the user.
struct Arrival {
    frame: TensorFrame,
    header_bytes: usize,
    /// Of a payload that was copied out: its place counts as taken until the user has the copy, which bounds the copies.
    ticket: Option<Ticket>,
}

/// Makes a lane of what a handshake has left.
pub(crate) fn open_lane(channel: Channel) -> (Lane, LaneReader, LaneWriter) {
    let Channel { socket, own, peer } = channel;
    let (read_half, write_half) = socket.into_split();
    let (outbox, writer) = Outbox::new(write_half);
    let lane = Lane { ring: Ring::new(own), outbox };
    let reader = LaneReader {
        lane: lane.clone(),
        socket: BufReader::new(read_half),
        peer: Arc::new(peer),
        in_flight: Arc::default(),
    };
    (lane, reader, writer)
}

impl Lane {
    /// Sends a tensor, waiting for room a little. Returns those that must take another way.
    pub(crate) async fn send(&self, tensor: OutgoingTensor) -> Result<(), OutgoingTensor> {
        let sending = tokio::time::timeout(PATIENCE, self.ring.send(&tensor.frame.payload, room(&tensor)));
        let Ok(Some(sent)) = sending.await else { return Err(tensor) };
        self.tell(&sent, &tensor);
        Ok(())
    }

    /// Puts a payload into the ring if there is room now and copying it takes no time to speak of; then it is to be told.
    pub(crate) fn try_place(&self, tensor: &OutgoingTensor) -> Option<Sent> {
        self.ring.try_send(&tensor.frame.payload, room(tensor))
    }

    /// Tells the peer of a payload that lies in the ring.
    pub(crate) fn tell(&self, sent: &Sent, tensor: &OutgoingTensor) {
        // What was written to the ring comes before the message that tells of it.
        fence(Ordering::Release);
        let header = tensor.header_frame[LENGTH_BYTES..].to_vec();
        // Not heard only when the lane has ended, and then so does the link.
        self.outbox.say(&Message::Placed { ticket: sent.ticket, offset: sent.offset as u64, header });
    }

    /// A slot to be filled, if one is free now.
    pub(crate) fn lend(&self, bytes: usize) -> Option<Loan> {
        self.ring.lend(bytes)
    }

    /// Tells the peer, after everything that was sent before, that the lane ends on purpose.
    pub(crate) fn say_goodbye(&self) {
        self.outbox.say(&Message::Goodbye);
    }
}

impl LaneReader {
    /// Reads until the peer says goodbye, ends or misbehaves; when the link has closed otherwise, for a little longer, since
    /// what the peer had sent before comes after the news on another socket.
    pub(crate) async fn run(self, incoming: Incoming) {
        let (arrivals, mut arrived) = mpsc::channel(TENSORS_IN_FLIGHT);
        let reading = async {
            let closed = async {
                incoming.core.closed().await;
                tokio::time::sleep(DRAIN_DEADLINE).await;
            };
            let reason = tokio::select! {
                reason = self.read(&incoming, arrivals) => reason,
                () = closed => None,
            };
            if let Some(reason) = reason {
                incoming.core.finish(reason);
            }
        };
        let delivering = async {
            while let Some(Arrival { frame, header_bytes, ticket }) = arrived.recv().await {
                incoming.deliver_tensor(frame, header_bytes).await;
                drop(ticket);
            }
        };
        tokio::join!(reading, delivering);
    }

    /// Returns why the link is to close, unless the peer has said goodbye: then it closes with a farewell of its own.
    async fn read(mut self, incoming: &Incoming, arrivals: mpsc::Sender<Arrival>) -> Option<CloseReason> {
        loop {
            let received = match message::read(&mut self.socket).await {
                Ok(received) => received,
                Err(misbehaviour) => return Some(CloseReason::PeerMisbehaved(misbehaviour)),
            };
            let handled = match received {
                Received::Ended => {
                    incoming.core.note_process_end();
                    let detail = "its process has ended: the socket of the shared memory is closed".to_owned();
                    return Some(CloseReason::PeerLost { detail });
                }
                Received::Message(Message::Goodbye) => return None,
                Received::Message(Message::Released { tickets }) => self.take_back(&tickets),
                Received::Message(Message::Placed { ticket, offset, header }) => {
                    self.receive(ticket, offset, &header, incoming).await.map(|arrival| {
                        if let Some(arrival) = arrival {
                            // There is room: what waits here is in flight.
                            let _ = arrivals.try_send(arrival);
                        }
                    })
                }
            };
            if let Err(misbehaviour) = handled {
                return Some(CloseReason::PeerMisbehaved(misbehaviour));
            }
        }
    }

    fn take_back(&self, tickets: &[u32]) -> Result<(), Misbehaviour> {
        let were_out = self.lane.ring.take_back(tickets);
        if were_out { Ok(()) } else { Err(malformed("it releases a tensor that is not in flight")) }
    }

    /// Checks a tensor and where it is said to lie. `None` if it came too late.
    async fn receive(
        &self,
        ticket: u32,
        offset: u64,
        header_bytes: &[u8],
        incoming: &Incoming,
    ) -> Result<Option<Arrival>, Misbehaviour> {
        let (header, payload_bytes) = decode_header(header_bytes)?;
        let range = place(offset, payload_bytes)?;
        let (ticket, is_crowded) = self.count_in(ticket, range.len())?;
        if incoming.check(&header)? == Admitted::Late {
            return Ok(None);
        }
        // What the peer wrote before it sent the message is seen from here on.
        fence(Ordering::Acquire);
        let (payload, ticket) = match header.name {
            TensorName::HiddenState(_) if !is_crowded => {
                (Bytes::from_owner(InPlace { peer: Arc::clone(&self.peer), range, _ticket: ticket }), None)
            }
            // Some are checked after they came, some are kept for long, and the ring must not fill with what is read much later.
            _ => (self.copied(range).await, Some(ticket)),
        };
        let header_bytes = LENGTH_BYTES + header_bytes.len();
        Ok(Some(Arrival { frame: TensorFrame { header, payload }, header_bytes, ticket }))
    }

    /// Counts a tensor as in flight, and says whether more than half of what may be is. Honest peers know the bounds.
    fn count_in(&self, number: u32, bytes: usize) -> Result<(Ticket, bool), Misbehaviour> {
        let in_flight = Arc::clone(&self.in_flight);
        let (tensors, all_bytes) = {
            let mut counts = in_flight.counts();
            counts.tensors += 1;
            counts.bytes += bytes;
            (counts.tensors, counts.bytes)
        };
        let ticket = Ticket { number, bytes, in_flight, outbox: Arc::clone(&self.lane.outbox) };
        if tensors > TENSORS_IN_FLIGHT || all_bytes > RING_BYTES {
            return Err(malformed("it places more than may be in flight"));
        }
        Ok((ticket, tensors > TENSORS_IN_FLIGHT / 2 || all_bytes > RING_BYTES / 2))
    }

    async fn copied(&self, range: Range<usize>) -> Bytes {
        let mut copy = vec![0; range.len()];
        copy_in_turns(self.peer.bytes(range), &mut copy).await;
        copy.into()
    }
}

/// How much of the ring a tensor may use. Parameters leave room for what a running job sends: its latents and noise predictions are copied
/// out too, but never wait behind them.
fn room(tensor: &OutgoingTensor) -> usize {
    match tensor.frame.header.name {
        TensorName::Probe(_) | TensorName::Weight(_) => COPIED_OUT_BYTES,
        TensorName::Condition(_)
        | TensorName::HiddenState(_)
        | TensorName::Latents(_)
        | TensorName::NoisePrediction(..)
        | TensorName::Reply { .. } => RING_BYTES,
    }
}

/// Where a payload lies, if it lies in the ring.
fn place(offset: u64, payload_bytes: u64) -> Result<Range<usize>, Misbehaviour> {
    let end = offset.checked_add(payload_bytes).filter(|&end| end <= RING_BYTES as u64);
    match end {
        Some(end) => Ok(offset as usize..end as usize),
        None => Err(malformed("it places a tensor outside of the ring")),
    }
}

impl AsRef<[u8]> for InPlace {
    fn as_ref(&self) -> &[u8] {
        self.peer.bytes(self.range.clone())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(tickets) = self.in_flight.release(self.number, self.bytes) {
            // Not heard only when the lane has ended: then nothing is given back any more.
            self.outbox.say(&Message::Released { tickets });
        }
    }
}

impl InFlight {
    /// Counts a tensor as released, which is before the peer can know. Returns those that the peer is to be told of now.
    fn release(&self, number: u32, bytes: usize) -> Option<Vec<u32>> {
        let mut counts = self.counts();
        counts.tensors -= 1;
        counts.bytes -= bytes;
        counts.released.push(number);
        counts.released_bytes += bytes;
        let is_due = counts.released.len() >= RELEASED_AT_ONCE || counts.released_bytes >= RELEASED_AT_ONCE_BYTES;
        is_due.then(|| {
            counts.released_bytes = 0;
            std::mem::take(&mut counts.released)
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every change of the counts is complete before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_in_the_ring_or_refused(offset in any::<u64>(), near in 0..=RING_BYTES as u64, bytes in 0u64..=1 << 30) {
            for offset in [offset, near] {
                match place(offset, bytes) {
                    Ok(range) => prop_assert!(range.end <= RING_BYTES && range.len() as u64 == bytes),
                    Err(_) => prop_assert!(offset.saturating_add(bytes) > RING_BYTES as u64),
                }
            }
        }
    }
}
