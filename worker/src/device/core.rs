//! What the device does between two looks at its queue: one layer of one job.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncdiff_common::heap;
use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_model::kernels::{Kernels, Value};
use asyncdiff_plan::{Epoch, JobId, Work};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::job::{Arrived, DeviceJob, Progress};
use super::panics::guarded;
use super::stopwatch::{Lap, Stopwatch};
use super::{DeviceCommand, JobOutcome, JobStart, JobTensor};
use crate::clock::Clock;
use crate::config::LayerTime;

/// Between two looks at whether a device gets on.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// All jobs of the device, and what they are computed with.
pub(super) struct DeviceCore {
    kernels: Kernels,
    jobs: BTreeMap<JobId, DeviceJob>,
    clock: Clock,
    simulated: Option<LayerTime>,
    /// Its own queue, for what is done in the background for a job.
    commands: mpsc::WeakSender<DeviceCommand>,
}

/// A layer that was computed and not handed on yet.
#[must_use]
pub(super) struct Computed {
    job: JobId,
    work: Work<Value>,
    value: Value,
    lap: Lap,
    /// How long it is to take on a simulated device.
    pub(super) simulated: Duration,
}

impl DeviceCore {
    pub(super) fn new(
        (kernels, commands): (Kernels, mpsc::WeakSender<DeviceCommand>),
        clock: Clock,
        simulated: Option<LayerTime>,
    ) -> Self {
        Self { kernels, jobs: BTreeMap::new(), clock, simulated, commands }
    }

    /// Carries out one command.
    pub(super) fn handle(&mut self, command: DeviceCommand) {
        match command {
            DeviceCommand::Departed { job, epoch, result } => self.handle_departed(job, epoch, result),
            DeviceCommand::Look { nccl, answer } => {
                while !self.gets_on() && !nccl.is_receiving() && !answer.is_closed() {
                    std::thread::sleep(LOOK_AGAIN);
                }
                // Whoever asked may have given up.
                let _ = answer.send(());
            }
            DeviceCommand::Release { job, epoch, answer } => {
                let is_it = self.jobs.get(&job).is_some_and(|job| job.epoch() == epoch);
                let released = if is_it { self.jobs.remove(&job) } else { None };
                if self.jobs.is_empty() {
                    self.kernels.trim();
                    heap::give_back();
                }
                let released = released.map(DeviceJob::into_statistics);
                // Whoever asked may have gone.
                drop(answer.send(released));
            }
            DeviceCommand::Run(work) => work(&self.kernels),
            DeviceCommand::Start(start) => self.handle_start(*start),
            DeviceCommand::Take(tensor) => self.handle_tensor(tensor),
        }
    }

    /// Computes the next layer of the first job that has one ready; jobs are served in the order of their ids.
    pub(super) fn compute(&mut self) -> Option<Computed> {
        loop {
            let (id, work) = self.jobs.iter_mut().find_map(|(id, job)| Some((*id, job.poll_work()?)))?;
            let (job, time) = (&self.jobs[&id], self.simulated.as_ref());
            let computed = guarded(|| {
                let simulated = time.map_or(Duration::ZERO, |time| job.simulated_time(&work, time));
                let stopwatch = Stopwatch::start(&self.kernels)?;
                let value = job.compute(&work)?;
                Ok((value, stopwatch.stop(&self.kernels)?, simulated))
            });
            match computed {
                Ok((value, lap, simulated)) => return Some(Computed { job: id, work, value, lap, simulated }),
                Err(failure) => self.end(id, JobOutcome::Failed { component: Some(work.run.component), failure }),
            }
        }
    }

    /// Hands on what was computed: to the job's other runs, to its peers, to the coordinator.
    pub(super) fn complete(&mut self, computed: Computed) {
        let Computed { job: id, work, value, lap, .. } = computed;
        // Released while a simulated device slept.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let component = Some(work.run.component);
        match guarded(|| job.complete(&work, value, lap)) {
            Ok(Progress::AllSent) => job.report(JobOutcome::Finished),
            Ok(Progress::GoesOn) => {}
            Err(failure) => self.end(id, JobOutcome::Failed { component, failure }),
        }
    }

    /// Notes that there was nothing to compute from `since` until now.
    pub(super) fn note_waited(&mut self, since: Instant) {
        for job in self.jobs.values_mut() {
            job.note_waited(since);
        }
    }

    fn handle_start(&mut self, start: JobStart) {
        let id = start.job;
        let (clock, kernels, commands) = (self.clock, self.kernels.clone(), self.commands.clone());
        match DeviceJob::start(start, clock, kernels, commands) {
            // An older epoch of the job is replaced; the Node has checked that it is older.
            Ok(job) => drop(self.jobs.insert(id, job)),
            Err((failure, report)) => report(JobOutcome::Failed { component: None, failure }),
        }
    }

    /// What comes from another GPU is received also if nobody wants it any more: the other one waits for that.
    fn handle_tensor(&mut self, tensor: JobTensor) {
        let JobTensor { job: id, epoch, input, shape, payload } = tensor;
        let arrived = Arrived::of(payload, &shape);
        // Late: the job ended while the tensor waited in the queue.
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.epoch() == epoch) else { return };
        if let Err(failure) = guarded(|| job.take(input, &shape, arrived?)) {
            self.end(id, JobOutcome::Failed { component: None, failure });
        }
    }

    fn handle_departed(&mut self, id: JobId, epoch: Epoch, result: Result<(), WorkerFailure>) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.epoch() == epoch) else { return };
        match result {
            Ok(()) => job.report(JobOutcome::Finished),
            Err(failure) => self.end(id, JobOutcome::Failed { component: None, failure }),
        }
    }

    /// Whether nothing is left that a device was given to do in the background, or something was done since the last look.
    fn gets_on(&mut self) -> bool {
        let done: usize = self.jobs.values_mut().map(DeviceJob::look_at_given).sum();
        done > 0 || self.jobs.values().all(DeviceJob::has_nothing_given)
    }

    fn end(&mut self, id: JobId, outcome: JobOutcome) {
        if let Some(mut job) = self.jobs.remove(&id) {
            job.report(outcome);
        }
    }
}
