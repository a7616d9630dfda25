//! Where a job's outputs go: straight to the links, from the device's own thread, without waiting.

use std::collections::HashMap;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, TensorHeader, TensorName, WorkerFailure};
use asyncdiff_model::kernels::Value;
use asyncdiff_plan::{Epoch, JobId, Output, Rank};
use asyncdiff_transport::link::{LinkError, LinkSender, TensorFrame};
use bytes::Bytes;

use crate::failure::{peer_text, without_hint};
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
    pub(super) fn send(&self, output: Output<Value>) -> Result<Sent, WorkerFailure> {
        let (name, tensor, links) = match output {
            Output::HiddenState { instance, to, tensor } => {
                let links: Option<Vec<&LinkSender>> = to.iter().map(|rank| self.peers.get(rank)).collect();
                (TensorName::HiddenState(instance), tensor, links)
            }
            Output::NoisePrediction { step, lane, tensor } => {
                (TensorName::NoisePrediction(step, lane), tensor, Some(vec![&self.coordinator]))
            }
        };
        let links = links.ok_or_else(|| WorkerFailure::BadAssignment {
            reason: format!("{name:?} goes to a rank that is not among the peers"),
        })?;
        let payload = match name {
            TensorName::HiddenState(_) => tensor.to_bytes(),
            _ => tensor_bytes::to_bytes(&tensor),
        };
        let payload = payload
            .map_err(|error| WorkerFailure::Unexpected { reason: format!("{name:?} cannot be sent: {error}") })?;
        let shape = tensor_bytes::shape_of(&tensor.shape());
        let mut hidden_state_bytes = 0;
        for link in links {
            let header = TensorHeader {
                job: self.job,
                epoch: self.epoch,
                name: name.clone(),
                shape: shape.clone(),
                dtype: DType::F32,
            };
            let bytes = send_counted(link, header, payload.clone())?;
            if matches!(name, TensorName::HiddenState(_)) {
                hidden_state_bytes += bytes;
            }
        }
        Ok(Sent { name, hidden_state_bytes })
    }
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
