//! The sending part of a link's end.

use std::net::SocketAddr;
use std::sync::Arc;

use asyncdiff_common::codec::{CodecError, MESSAGE_LIMIT_BYTES};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::core::Handle;
use super::frame::{LENGTH_BYTES, OutgoingTensor};
use super::{CloseReason, Farewell, HEADER_LIMIT_BYTES, LinkCounters, LinkKind, TensorFrame};
use crate::PeerName;
use crate::shm::Loan;

/// Sends control frames and tensors to one peer. Clones send on the same link.
#[derive(Clone)]
pub struct LinkSender {
    pub(crate) handle: Arc<Handle>,
    pub(crate) control: mpsc::Sender<Bytes>,
    pub(crate) tensors: mpsc::Sender<OutgoingTensor>,
}

/// Why a frame was not taken.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The link has closed.
    #[error("the link is closed: {0}")]
    Closed(CloseReason),
    /// A control frame over the limit.
    #[error("a control frame of {found_bytes} bytes is over the limit of {MESSAGE_LIMIT_BYTES}")]
    ControlTooLong {
        /// The frame's length.
        found_bytes: usize,
    },
    /// The queue has no room: the peer or the network is slower than this side.
    #[error("the link's queue is full: the peer or the network is slower than this side")]
    Full,
    /// The header does not encode.
    #[error("the tensor's header does not encode: {0}")]
    Header(#[from] CodecError),
    /// A tensor header over the limit.
    #[error("a tensor header of {found_bytes} bytes is over the limit of {HEADER_LIMIT_BYTES}")]
    HeaderTooLong {
        /// The encoded header's length.
        found_bytes: usize,
    },
    /// The payload is not what the header says.
    #[error("the payload has {found_bytes} bytes and its header says {expected_bytes}")]
    PayloadLength {
        /// By the header.
        expected_bytes: u64,
        /// Of the payload.
        found_bytes: u64,
    },
    /// The tensor is over the wire's limit.
    #[error("a tensor of shape {shape:?} is over the limit of {limit_bytes} bytes")]
    TensorTooLarge {
        /// Its shape.
        shape: Vec<u32>,
        /// The most a tensor may have.
        limit_bytes: u64,
    },
}

impl LinkSender {
    /// Sends a control frame, waiting for room. Control frames arrive in the order in which they were sent.
    pub async fn send_control(&self, frame: Bytes) -> Result<(), LinkError> {
        self.check_control(&frame)?;
        let room = self.room(&self.control).await?;
        self.put_control(room, frame);
        Ok(())
    }

    /// Sends a control frame if there is room for it now. May be called from any thread.
    pub fn try_send_control(&self, frame: Bytes) -> Result<(), LinkError> {
        self.check_control(&frame)?;
        let room = self.control.try_reserve().map_err(|error| self.no_room(&error))?;
        self.put_control(room, frame);
        Ok(())
    }

    /// Sends a tensor, waiting for room. Tensors may arrive in any order.
    pub async fn send_tensor(&self, frame: TensorFrame) -> Result<(), LinkError> {
        let Some(tensor) = self.put_in_lane(self.check_tensor(frame)?) else { return Ok(()) };
        let room = self.room(&self.tensors).await?;
        self.put_tensor(room, tensor);
        Ok(())
    }

    /// Sends a tensor if there is room for it now. Never waits and may be called from any thread, so that a device's
    /// thread can hand over an output and go on computing.
    pub fn try_send_tensor(&self, frame: TensorFrame) -> Result<(), LinkError> {
        let Some(tensor) = self.put_in_lane(self.check_tensor(frame)?) else { return Ok(()) };
        let room = self.tensors.try_reserve().map_err(|error| self.no_room(&error))?;
        self.put_tensor(room, tensor);
        Ok(())
    }

    /// Memory in which a payload of that many bytes can be made, so that sending it on this link copies nothing. `None` where
    /// there is none, or none is free now: then any other memory will do. Never waits and may be called from any thread.
    #[must_use]
    pub fn lend(&self, bytes: usize) -> Option<Loan> {
        let core = &self.handle.0;
        core.lane().filter(|_| core.reason().is_none())?.lend(bytes)
    }

    /// What carries this link's tensors. A link between processes that was just accepted may begin on QUIC and go over
    /// to shared memory.
    #[must_use]
    pub fn kind(&self) -> LinkKind {
        self.handle.0.kind()
    }

    /// Closes the link. Frames that were accepted before are still delivered, for at most a second, unless the farewell
    /// is an accusation.
    pub fn close(&self, farewell: Farewell) {
        self.handle.0.finish(CloseReason::on_our_side(farewell));
    }

    /// Waits until the link has closed, and says why.
    pub async fn closed(&self) -> CloseReason {
        self.handle.0.closed().await
    }

    /// Why the link has closed, if it has.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.handle.0.reason()
    }

    /// What this end has sent and received.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        self.handle.0.counters.snapshot()
    }

    /// Who is at the other end, by its certificate.
    #[must_use]
    pub fn peer(&self) -> &PeerName {
        &self.handle.0.peer
    }

    /// Where the peer's control connection comes from; `None` for links within one process.
    #[must_use]
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.handle.0.remote_address
    }

    fn check_control(&self, frame: &Bytes) -> Result<(), LinkError> {
        self.check_open()?;
        if frame.len() > MESSAGE_LIMIT_BYTES {
            return Err(LinkError::ControlTooLong { found_bytes: frame.len() });
        }
        Ok(())
    }

    fn check_tensor(&self, frame: TensorFrame) -> Result<OutgoingTensor, LinkError> {
        self.check_open()?;
        OutgoingTensor::new(frame)
    }

    fn check_open(&self) -> Result<(), LinkError> {
        match self.close_reason() {
            Some(reason) => Err(LinkError::Closed(reason)),
            None => Ok(()),
        }
    }

    async fn room<'a, T>(&self, queue: &'a mpsc::Sender<T>) -> Result<mpsc::Permit<'a, T>, LinkError> {
        tokio::select! {
            room = queue.reserve() => room.map_err(|_| self.gone()),
            reason = self.closed() => Err(LinkError::Closed(reason)),
        }
    }

    fn put_control(&self, room: mpsc::Permit<'_, Bytes>, frame: Bytes) {
        // Counted before the carrier can see it, so that a peer's answer never comes before the count.
        self.handle.0.counters.sent_control(LENGTH_BYTES + frame.len());
        room.send(frame);
    }

    /// Sends a tensor through shared memory, by the caller's own thread, if there is room now. Returns what must take the queue.
    fn put_in_lane(&self, tensor: OutgoingTensor) -> Option<OutgoingTensor> {
        let core = &self.handle.0;
        let Some((lane, sent)) = core.lane().and_then(|lane| Some((lane, lane.try_place(&tensor)?))) else {
            return Some(tensor);
        };
        // Counted before the peer can see it, so that its answer never comes before the count.
        core.counters.sent_tensor(tensor.header_frame.len(), tensor.frame.payload.len());
        lane.tell(&sent, &tensor);
        None
    }

    fn put_tensor(&self, room: mpsc::Permit<'_, OutgoingTensor>, tensor: OutgoingTensor) {
        self.handle.0.counters.sent_tensor(tensor.header_frame.len(), tensor.frame.payload.len());
        room.send(tensor);
    }

    fn no_room(&self, error: &TrySendError<()>) -> LinkError {
        match error {
            TrySendError::Full(()) => LinkError::Full,
            TrySendError::Closed(()) => self.gone(),
        }
    }

    /// The carrier let go of its queue; it gives its reason first.
    fn gone(&self) -> LinkError {
        let unexplained = || CloseReason::PeerLost { detail: "the link's carrier stopped".to_owned() };
        LinkError::Closed(self.close_reason().unwrap_or_else(unexplained))
    }
}
