//! What the device does between two looks at its queue: one layer of one job.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncdiff_common::heap;
use asyncdiff_model::kernels::{Kernels, Value};
use asyncdiff_plan::{JobId, Work};
use tokio::time::Instant;

use super::job::DeviceJob;
use super::panics::guarded;
use super::{DeviceCommand, JobOutcome, JobStart, JobTensor};
use crate::clock::Clock;
use crate::config::LayerTime;

/// All jobs of the device, and what they are computed with.
pub(super) struct DeviceCore {
    kernels: Kernels,
    jobs: BTreeMap<JobId, DeviceJob>,
    clock: Clock,
    simulated: Option<LayerTime>,
}

/// A layer that was computed and not handed on yet.
#[must_use]
pub(super) struct Computed {
    job: JobId,
    work: Work<Value>,
    value: Value,
    started: Instant,
    /// How long it is to take on a simulated device.
    pub(super) simulated: Duration,
}

impl DeviceCore {
    pub(super) fn new(kernels: Kernels, clock: Clock, simulated: Option<LayerTime>) -> Self {
        Self { kernels, jobs: BTreeMap::new(), clock, simulated }
    }

    /// Carries out one command.
    pub(super) fn handle(&mut self, command: DeviceCommand) {
        match command {
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
            let started = Instant::now();
            let (job, time) = (&self.jobs[&id], self.simulated.as_ref());
            let computed = guarded(|| {
                let simulated = time.map_or(Duration::ZERO, |time| job.simulated_time(&work, time));
                Ok((job.compute(&work)?, simulated))
            });
            match computed {
                Ok((value, simulated)) => return Some(Computed { job: id, work, value, started, simulated }),
                Err(failure) => self.end(id, JobOutcome::Failed { component: Some(work.run.component), failure }),
            }
        }
    }

    /// Hands on what was computed: to the job's other runs, to its peers, to the coordinator.
    pub(super) fn complete(&mut self, computed: Computed) {
        let Computed { job: id, work, value, started, .. } = computed;
        // Released while a simulated device slept.
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let component = Some(work.run.component);
        match guarded(|| job.complete(&work, value, started)) {
            Ok(()) if job.is_finished() => job.report(JobOutcome::Finished),
            Ok(()) => {}
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
        let (clock, kernels) = (self.clock, self.kernels.clone());
        // An older epoch of the job is replaced; the Node has checked that it is older.
        self.jobs.insert(id, DeviceJob::new(start, clock, kernels));
    }

    fn handle_tensor(&mut self, tensor: JobTensor) {
        let id = tensor.job;
        // Late: the job ended while the tensor waited in the queue.
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.epoch() == tensor.epoch) else { return };
        if let Err(failure) = guarded(|| job.take(tensor)) {
            self.end(id, JobOutcome::Failed { component: None, failure });
        }
    }

    fn end(&mut self, id: JobId, outcome: JobOutcome) {
        if let Some(mut job) = self.jobs.remove(&id) {
            job.report(outcome);
        }
    }
}
