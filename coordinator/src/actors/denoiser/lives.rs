//! What a job takes over from an earlier life of the coordinator, and leaves to a later one.

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_model::noise_scheduler::NoiseScheduler;
use ractor::ActorRef;
use tokio::time::Instant;

use super::actor::DenoiserMessage;
use super::saving::SavedLoop;
use super::start::Start;
use super::state::{DenoiserState, Phase};
use crate::failure::JobFailed;
use crate::job_store::Progress;

impl DenoiserState {
    /// What the first placement starts from.
    pub(super) fn start(&mut self, scheduler: NoiseScheduler, noise: Vec<f32>) -> Start {
        let start = match self.life.progress.take() {
            Some(saved) => self.take_up(saved, scheduler, noise),
            None => Start::Fresh(Box::new((scheduler, noise))),
        };
        if self.life.was_begun {
            self.recoveries.begin_again(start.step().0, Instant::now());
        }
        start
    }

    /// Goes on from what an earlier life saved, if it is of this job.
    fn take_up(&mut self, saved: Progress, mut scheduler: NoiseScheduler, noise: Vec<f32>) -> Start {
        let elements = self.setup.settings.shape.elements();
        let fits = SavedLoop::read(&saved.state).map_err(|error| error.to_string()).and_then(|saved| {
            let fits = saved.progress.fit(elements, &mut scheduler);
            fits.map(|()| saved).map_err(|error| error.to_string())
        });
        match fits {
            Ok(SavedLoop { compute, progress }) => {
                self.setup.denoiser.compute = compute;
                tracing::info!(job = %self.reporter.job, step = progress.step.0, "going on from what was saved");
                Start::Saved(Box::new((scheduler, progress)))
            }
            Err(reason) => {
                self.reporter.warnings(vec![format!("it begins again: what was saved does not fit it ({reason})")]);
                Start::Fresh(Box::new((scheduler, noise)))
            }
        }
    }

    /// Whether the newest placement is the first one of this life of the coordinator.
    pub(super) fn is_first_placement(&self) -> bool {
        self.epoch == self.life.first_epoch
    }

    /// Saves what the loop has come to, if it is time.
    pub(super) fn save(&mut self, myself: &ActorRef<DenoiserMessage>) {
        let now = Instant::now();
        let Phase::Denoising { denoising, .. } = &self.phase else { return };
        // What is left after the last step is done again sooner than planned anew.
        if denoising.steps_taken() < self.setup.evaluations.get() && self.saving.is_due(now) {
            let saved = SavedLoop { compute: self.setup.denoiser.compute, progress: denoising.progress() };
            // Not only the epochs that were followed: none is given away twice.
            self.saving.save(saved, self.newest_epoch, now, myself);
        }
    }

    /// What was saved fitted the job and does not fit its plan, which was made for it.
    pub(super) fn fail_start(&mut self, myself: &ActorRef<DenoiserMessage>, what: String) {
        // The phase was taken apart; a job that is in none has ended.
        self.phase = Phase::Finishing { _task: OwnedTask::spawn(async {}) };
        self.end(myself, Err(JobFailed::Bug { what }));
    }
}
