//! Where a job's outputs go: straight to the links, without waiting for them.

use std::collections::HashMap;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, TensorHeader, TensorName, ToPeer, WorkerFailure};
use asyncdiff_model::encodings::{Encoded, Encoder};
use asyncdiff_model::kernels::Value;
use asyncdiff_plan::{Epoch, Instance, JobId, Lane, Output, Rank, StepIndex};
use asyncdiff_transport::link::{LinkError, LinkSender, TensorFrame};
use bytes::Bytes;

use crate::failure::{peer_text, without_hint};
use crate::intake::dtype_of;
use crate::nccl::{NcclPath, NcclSlot, Soundness};
use crate::tensor_bytes;

/// Bytes of a header's length, which goes before it.
const HEADER_LENGTH_BYTES: usize = 4;

/// The links of one job.
pub(crate) struct Outlets {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) coordinator: LinkSender,
    pub(crate) peers: HashMap<Rank, Outlet>,
    /// Checked last thing before anything is sent that was computed.
    pub(crate) soundness: Soundness,
}

/// The ways to a peer.
pub(crate) struct Outlet {
    pub(crate) link: LinkSender,
    pub(crate) nccl: NcclSlot,
}

impl Outlets {
    /// Sends an output to everybody who reads it. Returns bytes of hidden states, headers and payloads, as the links count them.
    pub(super) fn send(&self, output: Output<Value>, encoder: &mut Encoder) -> Result<u64, WorkerFailure> {
        match output {
            Output::HiddenState { instance, to, tensor } => {
                let mut bytes = 0;
                for rank in to {
                    bytes += self.send_hidden_state(instance, rank, &tensor, encoder)?;
                }
                Ok(bytes)
            }
            Output::NoisePrediction { step, lane, tensor } => {
                self.send_prediction(step, lane, &tensor)?;
                Ok(0)
            }
        }
    }

    /// The way from GPU to GPU to a peer, if there is one.
    pub(super) fn nccl(&self, to: Rank) -> Option<&NcclPath> {
        self.peers.get(&to)?.nccl.path().map(|path| &**path)
    }

    /// Says to a peer what comes to it from GPU to GPU.
    pub(super) fn announce(&self, to: Rank, header: TensorHeader) -> Result<(), WorkerFailure> {
        let link = self.link(to, &header.name)?;
        let frame = codec::encode(&ToPeer::NcclSent { header }).map_err(|error| link_failure(link, &error.into()))?;
        link.try_send_control(frame.into()).map_err(|error| link_failure(link, &error))
    }

    /// Sends what the encoder makes of a value: nothing, it, or it and later versions that waited for it. Returns the bytes.
    fn send_hidden_state(
        &self,
        instance: Instance,
        to: Rank,
        tensor: &Value,
        encoder: &mut Encoder,
    ) -> Result<u64, WorkerFailure> {
        let link = self.link(to, &TensorName::HiddenState(instance))?;
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
            bytes += self.send_counted(link, header, payload)?;
        }
        Ok(bytes)
    }

    /// Sends a tensor, or a part of one, to a peer. Returns its bytes.
    pub(super) fn send_to(&self, to: Rank, header: TensorHeader, payload: Bytes) -> Result<u64, WorkerFailure> {
        self.send_counted(self.link(to, &header.name)?, header, payload)
    }

    fn send_prediction(&self, step: StepIndex, lane: Lane, tensor: &Value) -> Result<(), WorkerFailure> {
        let name = TensorName::NoisePrediction(step, lane);
        let payload = tensor_bytes::to_bytes(tensor).map_err(|error| cannot_be_sent(&name, &error))?;
        let header = self.header(name, tensor_bytes::shape_of(&tensor.shape()));
        self.send_counted(&self.coordinator, header, payload)?;
        Ok(())
    }

    pub(super) fn header(&self, name: TensorName, shape: Vec<u32>) -> TensorHeader {
        TensorHeader { job: self.job, epoch: self.epoch, name, shape, dtype: DType::F32, delta: None, part: None }
    }

    fn link(&self, to: Rank, name: &TensorName) -> Result<&LinkSender, WorkerFailure> {
        let outlet = self.peers.get(&to).ok_or_else(|| WorkerFailure::BadAssignment {
            reason: format!("{name:?} goes to {to}, which is not among the peers"),
        })?;
        Ok(&outlet.link)
    }

    /// Sends one tensor and returns its bytes as the link counts them. Not by how much the link's counters moved: probes may be on it too.
    fn send_counted(&self, link: &LinkSender, header: TensorHeader, payload: Bytes) -> Result<u64, WorkerFailure> {
        let encoded = codec::encode(&header).map_err(|error| link_failure(link, &error.into()))?;
        let bytes = HEADER_LENGTH_BYTES + encoded.len() + payload.len();
        // The payload is there, so whatever it was computed from had come, or was lost before.
        self.soundness.check()?;
        link.try_send_tensor(TensorFrame { header, payload }).map_err(|error| link_failure(link, &error))?;
        Ok(bytes as u64)
    }
}

pub(super) fn cannot_be_sent(name: &TensorName, error: &dyn std::error::Error) -> WorkerFailure {
    WorkerFailure::Unexpected { reason: format!("{name:?} cannot be sent: {error}") }
}

fn link_failure(link: &LinkSender, error: &LinkError) -> WorkerFailure {
    WorkerFailure::PeerFailed { peer: peer_text(link.peer()), reason: without_hint(&error.to_string()) }
}
