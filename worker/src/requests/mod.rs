//! What a worker does besides denoising: encode text, decode latents, measure layers and links. Each is a task of its own with a deadline;
//! dropping it ends what it waits for.

mod decode;
mod encode;
mod measure;
mod measure_link;

use std::collections::HashMap;
use std::time::Duration;

use asyncdiff_common::wire::{DType, PartSpec, TensorHeader, TensorName, WorkerFailure, WorkerReply};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;

pub(crate) use decode::{DecodeLatents, decode_latents};
pub(crate) use encode::{EncodeText, encode_text};
pub(crate) use measure::{MeasureLayers, measure_layers};
pub(crate) use measure_link::{MeasureLink, measure_link};

use crate::actors::SessionRef;
use crate::device::DeviceHandle;
use crate::failure::{peer_text, without_hint};
use crate::weights::{Collector, ReceivedWeights};

/// How long encoding text may take, parameters included: a text encoder of half a gigabyte on a slow line.
pub(crate) const ENCODE_DEADLINE: Duration = Duration::from_secs(300);

/// How long measuring may take: each kind of layer of the largest UNet, four times, on one core.
pub(crate) const MEASURE_DEADLINE: Duration = Duration::from_secs(300);

/// How long measuring a link may take, its dial included: one that is slower carries no hidden states.
pub(crate) const MEASURE_LINK_DEADLINE: Duration = Duration::from_secs(15);

/// How long a decoder may wait for its latents and work on them. It is loaded while the job still runs, so this bounds a job's length on
/// a worker that also decodes.
pub(crate) const DECODE_DEADLINE: Duration = Duration::from_secs(3600);

/// What requests are carried out with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) device: DeviceHandle,
    pub(crate) collector: Collector,
    pub(crate) session: SessionRef,
}

/// What came of a request.
pub(crate) type RequestResult = Result<WorkerReply, WorkerFailure>;

impl Tools {
    /// Gets the parameters of a text encoder or VAE.
    async fn collect(&self, job: JobId, model: &PartSpec) -> Result<ReceivedWeights, WorkerFailure> {
        let collected = self.collector.collect(job, &model.folder, model.weights.clone()).await?;
        Ok(ReceivedWeights::new(collected, &HashMap::new()))
    }

    /// Sends a request's tensor to the coordinator.
    async fn send_reply(&self, job: JobId, request: u64, tensor: ReplyTensor) -> Result<(), WorkerFailure> {
        let ReplyTensor { shape, dtype, payload } = tensor;
        let name = TensorName::Reply { request, index: 0 };
        let header = TensorHeader { job, epoch: Epoch(0), name, shape, dtype, delta: None, part: None };
        let failed = |error: asyncdiff_transport::link::LinkError| WorkerFailure::PeerFailed {
            peer: peer_text(self.session.link.peer()),
            reason: without_hint(&error.to_string()),
        };
        self.session.link.send_tensor(TensorFrame { header, payload }).await.map_err(failed)
    }
}

/// A request's result that is a tensor.
struct ReplyTensor {
    shape: Vec<u32>,
    dtype: DType,
    payload: Bytes,
}

/// Ends a request that takes too long with a failure that says so.
pub(crate) async fn with_deadline(
    what: &str,
    limit: Duration,
    work: impl Future<Output = RequestResult>,
) -> RequestResult {
    let overdue = |_| Err(WorkerFailure::TimedOut { what: what.to_owned(), seconds: limit.as_secs() });
    tokio::time::timeout(limit, work).await.unwrap_or_else(overdue)
}
