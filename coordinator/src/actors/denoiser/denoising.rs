//! The denoising loop between links: the path that everything else waits for.
//!
//! From a noise prediction in the mailbox to latents in the links' queues there is no lock, no await and no other
//! actor.

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{DenoiseEngine, Epoch, Event, JobFailure, JobId, Rank, StepIndex};
use asyncdiff_transport::link::TensorFrame;
use bytes::Bytes;
use ractor::ActorId;
use tokio::time::Instant;

use super::actor::ArrivedPrediction;
use super::prepare::serving;
use super::recorder::{Recorded, Recorder};
use crate::actors::session::WorkerHandle;
use crate::denoise::{self, DenoiseLoop, Denoised, Effect};
use crate::failure::JobFailed;

/// A running loop with its workers.
pub(super) struct Denoising {
    denoise_loop: DenoiseLoop,
    /// By rank.
    ranks: Vec<WorkerHandle>,
    job: JobId,
    /// Of the placement that it follows.
    epoch: Epoch,
    /// Axes of what is sent at a step.
    axes: Vec<u32>,
    recorder: Recorder,
    /// When the newest noise prediction arrived, or the plan began.
    heard: Instant,
    /// Why the rank that the engine was told of is lost.
    loss: String,
}

/// What came of an event.
#[must_use]
pub(super) enum Progress {
    Failed(JobFailed),
    Finished,
    Going,
}

impl Denoising {
    pub(super) fn new(
        denoise_loop: DenoiseLoop,
        (job, epoch): (JobId, Epoch),
        ranks: Vec<WorkerHandle>,
        recorder: Recorder,
    ) -> Self {
        let axes = denoise_loop.axes();
        Self { denoise_loop, ranks, job, epoch, axes, recorder, heard: Instant::now(), loss: String::new() }
    }

    /// Goes on by another plan of the steps that are left, at other ranks.
    pub(super) fn replan(
        &mut self,
        engine: DenoiseEngine,
        epoch: Epoch,
        ranks: Vec<WorkerHandle>,
    ) -> Result<(), JobFailed> {
        self.denoise_loop.replan(engine).map_err(|error| JobFailed::Bug { what: error.to_string() })?;
        (self.epoch, self.ranks, self.heard) = (epoch, ranks, Instant::now());
        self.recorder.replanned();
        Ok(())
    }

    /// By rank.
    pub(super) fn ranks(&self) -> &[WorkerHandle] {
        &self.ranks
    }

    /// Those of the ranks that have something to do.
    pub(super) fn serving(&self) -> impl Iterator<Item = &WorkerHandle> {
        serving(self.engine().placed(), &self.ranks).map(|(_, worker)| worker)
    }

    /// When the newest noise prediction arrived, or the plan began.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Seconds that the loop has taken so far.
    pub(super) fn seconds(&self) -> f64 {
        self.recorder.denoise_seconds()
    }

    pub(super) fn engine(&self) -> &DenoiseEngine {
        self.denoise_loop.engine()
    }

    /// A copy of what it takes to go on from here.
    pub(super) fn progress(&self) -> denoise::Progress {
        self.denoise_loop.progress()
    }

    pub(super) fn steps_taken(&self) -> u32 {
        self.engine().steps_taken().0
    }

    pub(super) fn handle_prediction(&mut self, prediction: ArrivedPrediction) -> Progress {
        let ArrivedPrediction { epoch, step, lane, from, payload, arrived } = prediction;
        if epoch != self.epoch {
            // It waited in the mailbox while the plan was replaced.
            tracing::debug!(%epoch, step = step.0, "a noise prediction of an older placement is dropped");
            return Progress::Going;
        }
        let now = Instant::now();
        self.heard = now;
        self.denoise_loop.handle_prediction((step, lane), from, &payload, now.into_std());
        let progress = self.run_effects(Some(arrived));
        self.recorder.predicted(step, lane, arrived, now);
        tracing::trace!(step = step.0, ?lane, rank = from.0, "noise prediction");
        progress
    }

    pub(super) fn handle_event(&mut self, event: Event) -> Progress {
        self.denoise_loop.handle_event(event, Instant::now().into_std());
        self.run_effects(None)
    }

    pub(super) fn handle_worker_lost(&mut self, worker: ActorId, reason: String) -> Progress {
        let rank = self.ranks.iter().position(|handle| handle.session_id() == worker);
        let Some(rank) = rank.and_then(|rank| u16::try_from(rank).ok()) else { return Progress::Going };
        self.loss = reason;
        self.handle_event(Event::WorkerLost { rank: Rank(rank) })
    }

    pub(super) fn into_results(self) -> (Denoised, Recorded) {
        (self.denoise_loop.into_denoised(), self.recorder.finish())
    }

    fn run_effects(&mut self, arrived: Option<Instant>) -> Progress {
        let mut before = Instant::now();
        while let Some(effect) = self.denoise_loop.poll_effect(before.into_std()) {
            let now = Instant::now();
            match effect {
                Effect::Failed(failure) => return Progress::Failed(self.job_failed(failure)),
                Effect::Finished => return Progress::Finished,
                Effect::SendLatents { step, to, payload } => {
                    if let Err(failed) = self.run_send_latents(step, &to, &payload) {
                        return Progress::Failed(failed);
                    }
                    self.recorder.departed(arrived, Instant::now());
                }
                Effect::StepTaken(step) => {
                    self.recorder.stepped(step, before, now);
                    tracing::debug!(step = step.0, "step taken");
                }
            }
            before = now;
        }
        Progress::Going
    }

    fn run_send_latents(&self, step: StepIndex, to: &[Rank], payload: &Bytes) -> Result<(), JobFailed> {
        for rank in to {
            let Some(worker) = self.ranks.get(rank.index()) else { continue };
            let header = TensorHeader {
                job: self.job,
                epoch: self.epoch,
                name: TensorName::Latents(step),
                shape: self.axes.clone(),
                dtype: DType::F32,
                delta: None,
                part: None,
            };
            let frame = TensorFrame { header, payload: payload.clone() };
            worker.link().try_send_tensor(frame).map_err(|error| {
                let (reason, _) = crate::failure::split_hint(&error.to_string());
                let worker = worker.name().to_owned();
                match worker_is_lost(&error) {
                    true => JobFailed::WorkerLost { worker, reason },
                    false => JobFailed::Stalled { worker, reason },
                }
            })?;
        }
        Ok(())
    }

    /// The engine's failure with names instead of ranks.
    fn job_failed(&self, failure: JobFailure) -> JobFailed {
        let name = |rank: Rank| self.ranks.get(rank.index()).map_or_else(|| rank.to_string(), |w| w.name().to_owned());
        match failure {
            JobFailure::StepOverdue { step, waited, waiting_for } => {
                JobFailed::StepOverdue { worker: name(waiting_for), step, waited }
            }
            JobFailure::UnexpectedPrediction { from, step, lane } => {
                JobFailed::UnexpectedPrediction { worker: name(from), step, lane }
            }
            JobFailure::WorkerLost { rank, .. } => {
                JobFailed::WorkerLost { worker: name(rank), reason: self.loss.clone() }
            }
        }
    }
}

fn worker_is_lost(error: &asyncdiff_transport::link::LinkError) -> bool {
    matches!(error, asyncdiff_transport::link::LinkError::Closed(_))
}
