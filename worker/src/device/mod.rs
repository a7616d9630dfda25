//! The device: one place that computes, with everything that it computes on.
//!
//! ```text
//!   Node, Component actors ── Start, Release, Run ──►┐ bounded ┌────────────┐ noise predictions ──► coordinator's link
//!   links' readers ── Take (tensors) ───────────────►┤  queue  │ DeviceCore │ hidden states ─────► peers' links
//!                                                    └────────►│            │ JobOutcome ────────► Node
//!                                                              └────────────┘
//! ```
//!
//! [`DeviceCore`](core::DeviceCore) is the same whoever drives it: a thread of its own ([`thread`]), or a task that computes inline and
//! then sleeps ([`simulated`]), so that a cluster in one process runs under a paused clock.

mod compute;
mod core;
mod departures;
mod handle;
mod job;
mod outlets;
mod panics;
mod pool;
mod simulated;
mod statistics;
mod stopwatch;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;

use asyncdiff_common::wire::{DType, DeviceInfo, TensorPart, Tracing, WorkerFailure};
use asyncdiff_model::component::Component;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::{ComponentId, Epoch, Instance, JobId, Program, Rank, RankPlan, StepIndex};
use bytes::Bytes;
use candle_core::Device;
use tokio::sync::{mpsc, oneshot};

use compute::compute_type;
pub(crate) use compute::format;
pub(crate) use handle::{DeviceHandle, Doorstep};
pub(crate) use outlets::{Outlet, Outlets};
pub(crate) use statistics::JobStatistics;

use crate::clock::Clock;
use crate::config::{DeviceKind, WorkerConfig};
use crate::error::WorkerError;
use crate::nccl::{NcclPath, NcclPaths};

/// Commands that may wait for the device. Tensors wait in their links when it is full, so this only bounds what lies between; it is more than
/// actors ever send at once.
const QUEUED_COMMANDS: usize = 1024;

/// What the device is to do. Commands are carried out in order, between two layers.
pub(crate) enum DeviceCommand {
    /// All that a job computed is sent, or something cannot be.
    Departed { job: JobId, epoch: Epoch, result: Result<(), WorkerFailure> },
    /// Say that the device gets on: that it has nothing to do, has done something since, or waits for another device.
    Look { nccl: Arc<NcclPaths>, answer: oneshot::Sender<()> },
    /// Forget a job, unless a newer epoch of it has begun; answered with how it went, or `None` if it is not there.
    Release { job: JobId, epoch: Epoch, answer: oneshot::Sender<Option<JobStatistics>> },
    /// Something else that needs the device; it answers for itself.
    Run(Box<dyn FnOnce(&Kernels) + Send>),
    /// Begin a job.
    Start(Box<JobStart>),
    /// A tensor arrived.
    Take(JobTensor),
}

/// Everything that a job needs to run.
pub(crate) struct JobStart {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) rows: u32,
    pub(crate) program: Arc<Program>,
    pub(crate) plan: RankPlan,
    pub(crate) timesteps: Vec<f64>,
    pub(crate) components: BTreeMap<ComponentId, Arc<Component>>,
    pub(crate) outlets: Outlets,
    pub(crate) trace: Tracing,
    pub(crate) report: ReportOutcome,
}

/// Called once, when a job has finished or failed. Must not wait.
pub(crate) type ReportOutcome = Box<dyn FnOnce(JobOutcome) + Send>;

/// How a job ended at this device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JobOutcome {
    /// It cannot go on.
    Failed {
        /// Whose run failed; `None` if it was not a component's.
        component: Option<ComponentId>,
        /// Why.
        failure: WorkerFailure,
    },
    /// All of its runs are done and sent.
    Finished,
}

/// A tensor for a job, admitted by the intake.
pub(crate) struct JobTensor {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) input: JobInput,
    pub(crate) shape: Vec<u32>,
    pub(crate) payload: Payload,
}

/// Where a tensor's elements are.
pub(crate) enum Payload {
    /// Here, as such elements, all or some of them.
    Bytes { bytes: Bytes, dtype: DType, part: Option<TensorPart> },
    /// On their way from another GPU, as these elements.
    Nccl { path: Arc<NcclPath>, dtype: DType },
}

/// What a tensor is to its job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobInput {
    Condition(String),
    HiddenState {
        instance: Instance,
        from: Rank,
    },
    /// Nothing any more.
    Late,
    Latents(StepIndex),
}

/// What drives the device: to be stopped after every handle is gone.
#[must_use]
pub(crate) enum Driver {
    Simulated(simulated::SimulatedDriver),
    Thread(thread::ThreadDriver),
}

/// Starts the device that the configuration asks for.
pub(crate) fn start(config: &WorkerConfig) -> Result<(DeviceHandle, Driver), WorkerError> {
    let kernels = match &config.device {
        DeviceKind::Cuda(ordinal) => Kernels::cuda(*ordinal)?,
        DeviceKind::Paced(_) => Kernels::stub(),
        DeviceKind::Simulated(_) | DeviceKind::Thread => Kernels::for_device(&Device::Cpu),
    };
    let (kind, name) = kernels.gpu().map_or(("cpu", String::new()), |gpu| (DeviceInfo::GPU, gpu.name.clone()));
    let info = DeviceInfo {
        kind: kind.to_owned(),
        name,
        threads: config.threads,
        memory_bytes: config.memory_bytes,
        fastest: compute_type(kernels.fastest_format()),
    };
    let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
    let layer_time = match &config.device {
        DeviceKind::Paced(time) | DeviceKind::Simulated(time) => Some(time.clone()),
        DeviceKind::Cuda(_) | DeviceKind::Thread => None,
    };
    let core = core::DeviceCore::new((kernels.clone(), commands.downgrade()), Clock::start(), layer_time.clone());
    let driver = match &config.device {
        DeviceKind::Simulated(_) => Driver::Simulated(simulated::start(core, queue)),
        DeviceKind::Cuda(_) | DeviceKind::Paced(_) | DeviceKind::Thread => {
            Driver::Thread(thread::start(core, queue, config).map_err(|reason| WorkerError::Thread { reason })?)
        }
    };
    let nccl = NcclPaths::new(kernels.clone(), config.nccl);
    Ok((DeviceHandle::new((commands, nccl), info, kernels, layer_time), driver))
}

impl Driver {
    /// Waits until the device has carried out what it was given and ended, for a bounded time.
    pub(crate) async fn stop(self) {
        match self {
            Self::Simulated(driver) => driver.stop().await,
            Self::Thread(driver) => driver.stop().await,
        }
    }
}
