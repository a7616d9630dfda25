//! Where a job's outputs go: straight to the links, from the device's own thread, without waiting.

use std::collections::HashMap;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, TensorHeader, TensorName, WorkerFailure};
use asyncdiff_model::encodings::{Encoded, Encoder};
use asyncdiff_model::kernels::Value;
use asyncdiff_plan::{Epoch, Instance, JobId, Lane, Output, Rank, StepIndex};
use asyncdiff_transport::link::{LinkError, LinkSender, TensorFrame};
use bytes::Bytes;

use crate::failure::{peer_text, without_hint};
use crate::intake::dtype_of;
use crate::tensor_bytes;

/// Bytes of a header's length, which goes before it.
const HEADER_LENGTH_BYTES: usize = 4;

/// The links of one job.
pub(crate) struct Outlets {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) coordinator: LinkSender,
    pub(crate) peers: HashMap<Rank, LinkSender>,
}

/// What was handed to links.
pub(super) struct Sent {
    pub(super) name: TensorName,
    /// Bytes of hidden states, headers and payloads, as the links count them.
    pub(super) hidden_state_bytes: u64,
}

impl Outlets {
    /// Sends an output to everybody who reads it. A full queue means that the peer does not keep up with the plan, which bounds what is
    /// in flight: the link counts as failed.
    ///
    /// Hidden states are encoded here, on the device's own thread, although whoever reads them waits meanwhile: the registers of differences follow
    /// the order of versions, a few hundred microseconds for the largest tensor are less than a core that another thread would take from
    /// the kernels, and what is encoded is still in this core's cache.
    pub(super) fn send(&self, output: Output<Value>, encoder: &mut Encoder) -> Result<Sent, WorkerFailure> {
        match output {
            Output::HiddenState { instance, to, tensor } => {
                let mut hidden_state_bytes = 0;
                for rank in to {
                    hidden_state_bytes += self.send_hidden_state(instance, rank, &tensor, encoder)?;
                }
                Ok(Sent { name: TensorName::HiddenState(instance), hidden_state_bytes })
            }
            Output::NoisePrediction { step, lane, tensor } => self.send_prediction(step, lane, &tensor),
        }
    }

    /// Sends what the encoder makes of a value: nothing, it, or it and later versions that waited for it. Returns the bytes.
    fn send_hidden_state(
        &self,
        instance: Instance,
        to: Rank,
        tensor: &Value,
        encoder: &mut Encoder,
    ) -> Result<u64, WorkerFailure> {
        let link = self.peers.get(&to).ok_or_else(|| WorkerFailure::BadAssignment {
            reason: format!("{instance:?} goes to {to}, which is not among the peers"),
        })?;
        let encoded = encoder.encode(instance, to, tensor.clone());
        let encoded = encoded.map_err(|error| cannot_be_sent(&TensorName::HiddenState(instance), &error))?;
        let mut bytes = 0;
        for Encoded { transfer, shape, payload } in encoded {
            let name = TensorName::HiddenState(transfer.instance);
            let shape = tensor_bytes::shape_of(&shape);
            let header = TensorHeader {
                dtype: dtype_of(transfer.encoding),
                delta: transfer.delta(),
                ..self.header(name, shape)
            };
            bytes += send_counted(link, header, payload)?;
        }
        Ok(bytes)
    }

    fn send_prediction(&self, step: StepIndex, lane: Lane, tensor: &Value) -> Result<Sent, WorkerFailure> {
        let name = TensorName::NoisePrediction(step, lane);
        let payload = tensor_bytes::to_bytes(tensor).map_err(|error| cannot_be_sent(&name, &error))?;
        let header = self.header(name.clone(), tensor_bytes::shape_of(&tensor.shape()));
        send_counted(&self.coordinator, header, payload)?;
        Ok(Sent { name, hidden_state_bytes: 0 })
    }

    fn header(&self, name: TensorName, shape: Vec<u32>) -> TensorHeader {
        TensorHeader { job: self.job, epoch: self.epoch, name, shape, dtype: DType::F32, delta: None }
    }
}

fn cannot_be_sent(name: &TensorName, error: &dyn std::error::Error) -> WorkerFailure {
    WorkerFailure::Unexpected { reason: format!("{name:?} cannot be sent: {error}") }
}

/// Sends one tensor and returns its bytes as the link counts them. Not by how much the link's counters moved: probes may be on it too.
fn send_counted(link: &LinkSender, header: TensorHeader, payload: Bytes) -> Result<u64, WorkerFailure> {
    let encoded = codec::encode(&header).map_err(|error| link_failure(link, &error.into()))?;
    let bytes = HEADER_LENGTH_BYTES + encoded.len() + payload.len();
    link.try_send_tensor(TensorFrame { header, payload }).map_err(|error| link_failure(link, &error))?;
    Ok(bytes as u64)
}

fn link_failure(link: &LinkSender, error: &LinkError) -> WorkerFailure {
    WorkerFailure::PeerFailed { peer: peer_text(link.peer()), reason: without_hint(&error.to_string()) }
}
