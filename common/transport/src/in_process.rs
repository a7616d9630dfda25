//! Links between two ends in one process: for simulated clusters, and for a worker in the coordinator's own process.
//!
//! Payloads are passed by reference. Everything else is as on any link: the same queues, admission, counters and
//! reasons.

use std::sync::Arc;

use bytes::Bytes;

use crate::PeerName;
use crate::link::{
    Admission, Admitted, CloseReason, Delivery, Incoming, Link, Outgoing, OutgoingTensor, Pump, TensorFrame, open, pump,
};

/// One end of a pair.
pub struct End {
    /// Who is at this end.
    pub name: PeerName,
    /// What this end accepts.
    pub admission: Arc<dyn Admission>,
}

/// Makes a link between two ends: the first's end of it (whose peer is the second) and the second's.
///
/// Must be called on a tokio runtime, which carries the frames. The tasks end when the link closes, and dropping it
/// closes it.
#[must_use]
pub fn pair(first: End, second: End) -> (Link, Link) {
    let (first_link, first_outgoing, first_incoming) = open(second.name, None, first.admission);
    let (second_link, second_outgoing, second_incoming) = open(first.name, None, second.admission);
    tokio::spawn(carry(first_outgoing, second_incoming));
    tokio::spawn(carry(second_outgoing, first_incoming));
    (first_link, second_link)
}

/// Carries one direction until its sending side has closed.
async fn carry(mut outgoing: Outgoing, incoming: Incoming) {
    let mut to_control = ToControl(&incoming);
    let mut to_tensors = ToTensors(&incoming);
    tokio::join!(
        pump(&outgoing.core, &mut outgoing.control, &mut to_control),
        pump(&outgoing.core, &mut outgoing.tensors, &mut to_tensors),
    );
    let reason = outgoing.core.closed().await;
    incoming.core.finish(match reason.farewell() {
        Some(farewell) => CloseReason::on_their_side(farewell),
        // The reason came from the other end, which has it already; a loss is one for both.
        None => reason,
    });
}

struct ToControl<'a>(&'a Incoming);

impl Pump<Bytes> for ToControl<'_> {
    async fn pass(&mut self, frame: Bytes) -> Delivery {
        self.0.deliver_control(frame).await;
        Delivery::Passed
    }
}

struct ToTensors<'a>(&'a Incoming);

impl Pump<OutgoingTensor> for ToTensors<'_> {
    async fn pass(&mut self, tensor: OutgoingTensor) -> Delivery {
        let OutgoingTensor { frame: TensorFrame { header, payload }, header_frame } = tensor;
        match self.0.check(&header) {
            Ok(Admitted::Wanted) => self.0.deliver_tensor(TensorFrame { header, payload }, header_frame.len()).await,
            Ok(Admitted::Late) => {}
            Err(misbehaviour) => {
                self.0.core.finish(CloseReason::PeerMisbehaved(misbehaviour));
                return Delivery::Stopped;
            }
        }
        Delivery::Passed
    }
}
