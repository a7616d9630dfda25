//! The way to the device for actors, requests and links' readers.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{ComputeType, DeviceInfo, LayerCost, WorkerFailure};
use asyncdiff_model::component;
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::{GraphMemory, Kernels};
use asyncdiff_plan::{Epoch, JobId, LayerId};
use tokio::sync::{mpsc, oneshot};

use super::panics::guarded;
use super::{DeviceCommand, JobStart, JobStatistics, format};
use crate::config::LayerTime;
use crate::failure::model_failure;
use crate::nccl::NcclPaths;

/// Sends commands to the device; the device ends when all clones are dropped.
#[derive(Clone)]
pub(crate) struct DeviceHandle {
    commands: mpsc::Sender<DeviceCommand>,
    nccl: Arc<NcclPaths>,
    info: DeviceInfo,
    kernels: Kernels,
    simulated: Option<LayerTime>,
}

/// Where links' own threads leave what is for the device.
#[derive(Clone, Debug)]
pub(crate) struct Doorstep(mpsc::WeakSender<DeviceCommand>);

impl Doorstep {
    /// Makes a command and hands it over if there is room. Gives back what it would have been made of if there is none, or no
    /// device any more.
    pub(crate) fn leave<T>(&self, what: T, command: impl FnOnce(T) -> Option<DeviceCommand>) -> Result<(), T> {
        let Some(commands) = self.0.upgrade() else { return Err(what) };
        let Ok(room) = commands.try_reserve() else { return Err(what) };
        if let Some(command) = command(what) {
            room.send(command);
        }
        Ok(())
    }
}

impl DeviceHandle {
    pub(super) fn new(
        (commands, nccl): (mpsc::Sender<DeviceCommand>, Arc<NcclPaths>),
        info: DeviceInfo,
        kernels: Kernels,
        simulated: Option<LayerTime>,
    ) -> Self {
        Self { commands, nccl, info, kernels, simulated }
    }

    pub(crate) fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The ways from and to other GPUs.
    pub(crate) fn nccl(&self) -> &Arc<NcclPaths> {
        &self.nccl
    }

    /// The device's kernels, to ask what something would take; what computes goes through [`run`](Self::run).
    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Begins a job, without waiting.
    pub(crate) fn start_job(&self, start: JobStart) -> Result<(), WorkerFailure> {
        let full = |_| WorkerFailure::Unexpected { reason: "the device has more to do than it can queue".to_owned() };
        self.commands.try_send(DeviceCommand::Start(Box::new(start))).map_err(full)
    }

    /// A way to the device that does not keep it alive.
    pub(crate) fn to_doorstep(&self) -> Doorstep {
        Doorstep(self.commands.downgrade())
    }

    /// Hands a command over, waiting for room: what comes over a link waits in the link.
    pub(crate) async fn submit(&self, command: DeviceCommand) {
        // Fails only when the device has ended, with the worker; then nobody waits for what the command would do.
        drop(self.commands.send(command).await);
    }

    /// Forgets a job and says how it went.
    pub(crate) async fn release(&self, job: JobId, epoch: Epoch) -> Option<JobStatistics> {
        let (answer, answered) = oneshot::channel();
        self.submit(DeviceCommand::Release { job, epoch, answer }).await;
        answered.await.ok().flatten()
    }

    /// Runs something on the device and waits for what it makes. A panic is an error.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Kernels) -> Result<T, WorkerFailure> + Send + 'static,
    ) -> Result<T, WorkerFailure> {
        let (answer, answered) = oneshot::channel();
        let command = DeviceCommand::Run(Box::new(move |kernels| {
            // Whoever asked may have gone.
            drop(answer.send(guarded(|| work(kernels))));
        }));
        self.submit(command).await;
        let gone = |_| Err(WorkerFailure::Unexpected { reason: "the worker is stopping".to_owned() });
        answered.await.unwrap_or_else(gone)
    }

    /// What layers cost here, in their order.
    pub(crate) async fn measure(
        &self,
        (program, compute): (DenoiserProgram, ComputeType),
        rows: u32,
        layers: Vec<LayerId>,
    ) -> Result<Vec<LayerCost>, WorkerFailure> {
        if layers.is_empty() {
            return self.sign_of_life().await.map(|()| Vec::new());
        }
        let simulated = self.simulated.clone();
        let work = move |kernels: &Kernels| {
            let kernels = kernels.with_format(format(compute));
            let durations = match simulated {
                Some(time) => layers.iter().map(|layer| time.of(program.program.layer(*layer), rows)).collect(),
                None => component::measure(&program, &kernels, rows as usize, &layers).map_err(model_failure)?,
            };
            let cost = |(&layer, duration): (&LayerId, Duration)| {
                let memory = component::layer_memory(&program, &kernels, rows as usize, layer);
                let GraphMemory { resident_bytes, working_bytes, .. } = memory;
                LayerCost { seconds: duration.as_secs_f64(), resident_bytes, working_bytes }
            };
            Ok(layers.iter().zip(durations).map(cost).collect())
        };
        self.run(work).await
    }

    /// Returns when the device has got on with its jobs, if there is anything to get on with, or waits for another device. Whoever asks has a deadline.
    async fn sign_of_life(&self) -> Result<(), WorkerFailure> {
        let (answer, answered) = oneshot::channel();
        self.submit(DeviceCommand::Look { nccl: Arc::clone(&self.nccl), answer }).await;
        answered.await.map_err(|_| WorkerFailure::Unexpected { reason: "the worker is stopping".to_owned() })
    }
}
