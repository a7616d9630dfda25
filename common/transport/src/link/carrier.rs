//! What every carrier does alike: taking frames from one end's queues until it closes, and handing frames to the
//! other's.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::TensorHeader;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::core::Core;
use super::frame::{LENGTH_BYTES, OutgoingTensor, describe};
use super::{Admission, CloseReason, Misbehaviour, TensorFrame};

/// How long a side that closes goes on sending what it had accepted. A last message takes a round trip; a peer that
/// does not answer must not keep a process from ending.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// The queues that a carrier empties.
pub(crate) struct Outgoing {
    pub(crate) core: Arc<Core>,
    pub(crate) control: mpsc::Receiver<Bytes>,
    pub(crate) tensors: mpsc::Receiver<OutgoingTensor>,
}

/// The queues that a carrier fills, with the checks that come before.
#[derive(Clone)]
pub(crate) struct Incoming {
    pub(crate) core: Arc<Core>,
    pub(crate) control: mpsc::Sender<Bytes>,
    pub(crate) tensors: mpsc::Sender<TensorFrame>,
    pub(crate) admission: Arc<dyn Admission>,
}

/// What becomes of an announced tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Admitted {
    Late,
    Wanted,
}

/// What became of a frame taken from a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Delivery {
    /// It went on its way.
    Passed,
    /// There is no way any more; the queue need not be emptied further.
    Stopped,
}

/// Where [`pump`] passes frames on to.
pub(crate) trait Pump<T> {
    /// Passes one frame on. Called again only after it returned.
    async fn pass(&mut self, frame: T) -> Delivery;
}

/// Passes frames from a queue on until the link closes; then, if this side closed it in peace, what is still in the
/// queue, within [`DRAIN_DEADLINE`].
pub(crate) async fn pump<T>(core: &Core, queue: &mut mpsc::Receiver<T>, onward: &mut impl Pump<T>) {
    let mut drained_by: Option<Instant> = None;
    loop {
        let frame = tokio::select! {
            frame = queue.recv() => frame,
            reason = core.closed(), if drained_by.is_none() => {
                match begin_drain(&reason, queue) {
                    Some(deadline) => drained_by = Some(deadline),
                    None => return,
                }
                continue;
            }
        };
        let Some(frame) = frame else { return };
        let passing = onward.pass(frame);
        tokio::pin!(passing);
        let delivery = loop {
            tokio::select! {
                delivery = &mut passing => break delivery,
                reason = core.closed(), if drained_by.is_none() => match begin_drain(&reason, queue) {
                    Some(deadline) => drained_by = Some(deadline),
                    None => return,
                },
                () = past(drained_by) => {
                    tracing::debug!(peer = %core.peer, "closed with frames left unsent");
                    return;
                }
            }
        };
        if delivery == Delivery::Stopped {
            return;
        }
    }
}

/// Closes the queue for new frames. Returns until when the rest may be sent, or `None` if the peer is to get nothing
/// more.
fn begin_drain<T>(reason: &CloseReason, queue: &mut mpsc::Receiver<T>) -> Option<Instant> {
    queue.close();
    matches!(reason, CloseReason::ClosedByUs(_)).then(|| Instant::now() + DRAIN_DEADLINE)
}

async fn past(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Incoming {
    /// Asks whether the announced tensor is wanted. Counts what is late; what is refused is the peer's fault.
    pub(crate) fn check(&self, header: &TensorHeader) -> Result<Admitted, Misbehaviour> {
        match self.admission.admit(&self.core.peer, header) {
            Ok(()) => Ok(Admitted::Wanted),
            Err(refusal) if refusal.is_late() => {
                self.core.counters.dropped_late_tensor();
                tracing::debug!(peer = %self.core.peer, tensor = %describe(header), %refusal, "dropped a late tensor");
                Ok(Admitted::Late)
            }
            Err(refusal) => Err(Misbehaviour::refused(&describe(header), refusal)),
        }
    }

    /// Hands a control frame to the user, waiting for room. It is counted before the user can see it.
    pub(crate) async fn deliver_control(&self, frame: Bytes) {
        match self.control.reserve().await {
            Ok(room) => {
                self.core.counters.received_control(LENGTH_BYTES + frame.len());
                room.send(frame);
            }
            Err(_) => self.core.counters.discarded_frame(),
        }
    }

    /// Hands a tensor to the user, waiting for room. `header_bytes` is the length of the header's frame.
    pub(crate) async fn deliver_tensor(&self, frame: TensorFrame, header_bytes: usize) {
        let payload_bytes = frame.payload.len();
        let Some(frame) = self.admission.take(frame) else {
            self.core.counters.received_tensor(header_bytes, payload_bytes);
            return;
        };
        match self.tensors.reserve().await {
            Ok(room) => {
                self.core.counters.received_tensor(header_bytes, frame.payload.len());
                room.send(frame);
            }
            Err(_) => self.core.counters.discarded_frame(),
        }
    }
}
