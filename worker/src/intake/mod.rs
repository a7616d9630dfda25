//! What may come in over this worker's links, and where it goes: nothing but what an assignment or a request expects.
//!
//! ```text
//!   link's thread ── admit(header) ─► Intake ◄── expect_job, ask_parameters, await_latents ── Node and its requests
//!                 ── take(frame) ───► Intake ──► device (hidden states, latents, conditions)
//!                                           └──► whoever awaits it (parameters, final latents)
//! ```
//!
//! What the device's queue has no room for waits with the link's reader, and probes are answered there.
//!
//! One lock, held for a few map look-ups: the transport asks about every header on its own thread.

mod job;
mod parameters;
mod recent;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use asyncdiff_common::wire::{DType, PROBE_LIMIT_BYTES, TENSOR_LIMIT_BYTES, TensorHeader, TensorName, WeightEntry};
use asyncdiff_plan::{Delta, Encoding, JobId, StepIndex, Transfer};
use asyncdiff_transport::link::{Admission, Refusal, TensorFrame, TensorReceiver};
use asyncdiff_transport::{PeerName, WorkerName};
use bytes::Bytes;
use tokio::sync::oneshot;

pub(crate) use job::JobIntake;
pub(crate) use parameters::{AwaitedParameters, Digest, Notice, ParameterEvent};

use crate::device::{DeviceCommand, DeviceHandle, Doorstep, JobInput, JobTensor, Payload};
use crate::nccl::NcclPath;
use parameters::Parameters;
use recent::Recent;

/// Ended jobs that are remembered, so that what was still on its way is late and not a misdeed. Jobs run one by one; this is hours of them.
const ENDED_JOBS: usize = 256;

/// What may come in.
#[derive(Debug)]
pub(crate) struct Intake {
    state: Mutex<State>,
    device: Doorstep,
}

#[derive(Debug)]
struct State {
    jobs: HashMap<JobId, JobIntake>,
    ended: Recent<JobId>,
    parameters: Parameters,
    latents: HashMap<(JobId, StepIndex), FinalLatents>,
}

/// Final latents that a decoder waits for.
#[derive(Debug)]
struct FinalLatents {
    shape: Vec<u32>,
    receiver: oneshot::Sender<Bytes>,
}

/// Waits for final latents; they are not expected any more when this is dropped.
#[must_use]
pub(crate) struct AwaitedLatents {
    intake: Arc<Intake>,
    place: (JobId, StepIndex),
    payload: oneshot::Receiver<Bytes>,
}

impl Intake {
    pub(crate) fn new(device: Doorstep) -> Arc<Self> {
        let state = State {
            jobs: HashMap::new(),
            ended: Recent::new(ENDED_JOBS),
            parameters: Parameters::default(),
            latents: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), device })
    }

    /// Lets in what a job's plan says, in place of what an older epoch of it said.
    pub(crate) fn expect_job(&self, job: JobIntake) {
        let mut state = self.state();
        state.ended.forget(&job.id());
        state.jobs.insert(job.id(), job);
    }

    /// What still comes of a job is late from now on.
    pub(crate) fn end_job(&self, job: JobId) {
        self.stop_job(job);
        self.state().latents.retain(|(owner, _), _| *owner != job);
    }

    /// What still comes of a job is late from now on, but for its final latents if somebody waits for them.
    pub(crate) fn stop_job(&self, job: JobId) {
        let mut state = self.state();
        state.jobs.remove(&job);
        state.ended.add(job);
    }

    /// Lets in these parameters, each once.
    pub(crate) fn ask_parameters(self: &Arc<Self>, entries: &[WeightEntry]) -> AwaitedParameters {
        let asked = self.state().parameters.ask(entries);
        AwaitedParameters::new(Arc::clone(self), asked)
    }

    /// Hands what a link brings to whoever waits for it, until the link closes.
    pub(crate) async fn read(&self, mut tensors: TensorReceiver, device: &DeviceHandle) {
        while let Some(frame) = tensors.tensor().await {
            if let Some(command) = self.route(frame) {
                device.submit(command).await;
            }
        }
    }

    /// Tells the request of a ticket, if it is still there.
    pub(crate) fn notify(&self, ticket: u64, notice: Notice) {
        self.state().parameters.notify(ticket, notice);
    }

    /// A peer says that it lacks parameters.
    pub(crate) fn not_held(&self, peer: &WorkerName, digests: &[Digest]) {
        self.state().parameters.not_held(peer, digests);
    }

    /// Lets in the final latents of a job.
    pub(crate) fn await_latents(self: &Arc<Self>, place: (JobId, StepIndex), shape: Vec<u32>) -> AwaitedLatents {
        let (receiver, payload) = oneshot::channel();
        self.state().latents.insert(place, FinalLatents { shape, receiver });
        AwaitedLatents { intake: Arc::clone(self), place, payload }
    }

    /// Hands an admitted tensor to whoever waits for it; what is left is for the device. `None` also for what nobody wants any more.
    pub(crate) fn route(&self, frame: TensorFrame) -> Option<DeviceCommand> {
        let TensorFrame { header: TensorHeader { job, epoch, name, shape, dtype, part, .. }, payload } = frame;
        let mut state = self.state();
        let input = match name {
            TensorName::Weight(digest) => {
                state.parameters.deliver(&digest, &payload);
                return None;
            }
            TensorName::Latents(step) => match state.latents.remove(&(job, step)) {
                Some(decoder) => {
                    // A decoder that gave up has dropped its end.
                    drop(decoder.receiver.send(payload));
                    return None;
                }
                None => JobInput::Latents(step),
            },
            TensorName::Condition(name) => JobInput::Condition(name),
            TensorName::HiddenState(instance) => {
                JobInput::HiddenState { instance, from: state.jobs.get(&job)?.transfer(instance)?.from }
            }
            // Never admitted, or answered by the link's reader.
            TensorName::NoisePrediction(..) | TensorName::Probe(_) | TensorName::Reply { .. } => return None,
        };
        let payload = Payload::Bytes { bytes: payload, dtype, part };
        Some(DeviceCommand::Take(JobTensor { job, epoch, input, shape, payload }))
    }

    /// Admits a hidden state that goes from GPU to GPU. One that is late is received all the same, and dropped.
    pub(crate) fn route_announced(
        &self,
        peer: &PeerName,
        header: TensorHeader,
        path: &Arc<NcclPath>,
    ) -> Result<DeviceCommand, Refusal> {
        let limit = Refusal::TooLarge { found_bytes: u64::MAX, limit_bytes: TENSOR_LIMIT_BYTES };
        header.payload_bytes().ok_or(limit)?;
        let state = self.state();
        let from = match state.jobs.get(&header.job) {
            Some(job) => job.admit_from_gpu(peer, &header).map(Some),
            None if state.ended.contains(&header.job) => Ok(None),
            None => Err(Refusal::UnknownJob { job: header.job }),
        };
        let from = match from {
            Err(refusal) if refusal.is_late() => None,
            from => from?,
        };
        let TensorHeader { job, epoch, name, shape, dtype, .. } = header;
        let input = match (name, from) {
            (TensorName::HiddenState(instance), Some(from)) => JobInput::HiddenState { instance, from },
            _ => JobInput::Late,
        };
        let payload = Payload::Nccl { path: Arc::clone(path), dtype };
        Ok(DeviceCommand::Take(JobTensor { job, epoch, input, shape, payload }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one map operation; none leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Intake {
    fn admit(&self, peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        let state = self.state();
        match (&header.name, peer) {
            (TensorName::Weight(digest), _) => state.parameters.admit(peer, digest, header),
            (TensorName::Latents(step), PeerName::Coordinator) if state.latents.contains_key(&(header.job, *step)) => {
                Form::plain(state.latents[&(header.job, *step)].shape.clone()).check(header)
            }
            (TensorName::Probe(_), PeerName::Worker(_)) => check_probe(header),
            (TensorName::NoisePrediction(..) | TensorName::Probe(_) | TensorName::Reply { .. }, _) => {
                Err(Refusal::Unexpected)
            }
            _ => match state.jobs.get(&header.job) {
                Some(job) => job.admit(peer, header),
                None if state.ended.contains(&header.job) => Err(Refusal::EndedJob { job: header.job }),
                None => Err(Refusal::UnknownJob { job: header.job }),
            },
        }
    }

    fn take(&self, frame: TensorFrame) -> Option<TensorFrame> {
        match frame.header.name {
            TensorName::Probe(_) => Some(frame),
            _ => self.device.leave(frame, |frame| self.route(frame)).err(),
        }
    }
}

impl AwaitedLatents {
    /// The latents' bytes; `None` if the job was released first.
    pub(crate) async fn payload(&mut self) -> Option<Bytes> {
        (&mut self.payload).await.ok()
    }
}

impl Drop for AwaitedLatents {
    fn drop(&mut self) {
        let mut state = self.intake.state();
        // Another request may have taken the place.
        if state.latents.get(&self.place).is_some_and(|latents| latents.receiver.is_closed()) {
            state.latents.remove(&self.place);
        }
    }
}

/// A probe is a row of bytes. How many are here at a time is bounded by the link's own limit of tensors in flight.
fn check_probe(header: &TensorHeader) -> Result<(), Refusal> {
    if header.dtype != DType::U8 {
        return Err(Refusal::WrongDType { expected: DType::U8, found: header.dtype });
    }
    let limit_bytes = u64::from(PROBE_LIMIT_BYTES);
    match header.payload_bytes() {
        Some(bytes) if bytes <= limit_bytes => Ok(()),
        found => Err(Refusal::TooLarge { found_bytes: found.unwrap_or(u64::MAX), limit_bytes }),
    }
}

/// What a tensor's header must say.
struct Form {
    shape: Vec<u32>,
    dtype: DType,
    delta: Option<Delta>,
    as_computed: AsComputed,
}

/// Whether a tensor may come as a GPU computed it: as the elements there, and in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AsComputed {
    Allowed,
    Refused,
}

impl Form {
    /// Latents and conditions travel as F32.
    fn plain(shape: Vec<u32>) -> Self {
        Self { shape, dtype: DType::F32, delta: None, as_computed: AsComputed::Refused }
    }

    /// Hidden states travel as their plan says.
    fn of(transfer: &Transfer, shape: Vec<u32>) -> Self {
        let is_full = transfer.encoding == Encoding::Full && transfer.base.is_none();
        let as_computed = if is_full { AsComputed::Allowed } else { AsComputed::Refused };
        Self { shape, dtype: dtype_of(transfer.encoding), delta: transfer.delta(), as_computed }
    }

    fn check(self, header: &TensorHeader) -> Result<(), Refusal> {
        let is_as_computed =
            self.as_computed == AsComputed::Allowed && matches!(header.dtype, DType::Bf16 | DType::F16 | DType::F32);
        if header.dtype != self.dtype && !is_as_computed {
            return Err(Refusal::WrongDType { expected: self.dtype, found: header.dtype });
        }
        if header.part.is_some() && !is_as_computed {
            return Err(Refusal::Unexpected);
        }
        if header.delta != self.delta {
            return Err(Refusal::WrongDelta { expected: self.delta, found: header.delta });
        }
        if header.shape != self.shape {
            return Err(Refusal::WrongShape { expected: self.shape, found: header.shape.clone() });
        }
        Ok(())
    }
}

/// What elements are in an encoding; differences become what they are based on.
pub(crate) fn dtype_of(encoding: Encoding) -> DType {
    match encoding {
        Encoding::Bf16 => DType::Bf16,
        Encoding::F16 => DType::F16,
        Encoding::Delta4 | Encoding::Delta8 | Encoding::Full => DType::F32,
    }
}
