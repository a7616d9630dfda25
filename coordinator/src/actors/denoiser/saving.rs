//! Saves a running job's progress, seldom enough not to be felt.
//!
//! The loop hands over a copy of its latents and of what the noise scheduler remembers, between two steps; encoding and writing
//! are done elsewhere. [`Pace`] decides when: never while a copy is on its way, and so that all of it, from the copy to the disk, takes
//! no more than a share of the time.

use std::time::Duration;

use asyncdiff_common::codec::{self, CodecError};
use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::ComputeType;
use asyncdiff_plan::Epoch;
use ractor::ActorRef;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::actor::DenoiserMessage;
use crate::actors::job_reporter::JobReporter;
use crate::denoise;
use crate::job_store::Progress;

/// What is saved of a running job.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedLoop {
    /// What the denoiser was computed in: the rest of the picture is computed in the same.
    pub(super) compute: ComputeType,
    pub(super) progress: denoise::Progress,
}

impl SavedLoop {
    pub(super) fn read(state: &[u8]) -> Result<Self, CodecError> {
        codec::decode(state)
    }
}

/// Saves one job's progress.
pub(super) struct Saving {
    /// By whom it is kept; none: the job is in memory alone. The queue hears of progress behind everything that happened to the
    /// job before, so that a record on disk is never behind the progress there.
    keeper: Option<JobReporter>,
    pace: Pace,
    encoding: Option<OwnedTask>,
}

impl Saving {
    pub(super) fn new(keeper: Option<JobReporter>, percent: u32) -> Self {
        Self { keeper, pace: Pace::new(percent), encoding: None }
    }

    /// Whether it is time.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.keeper.is_some() && self.pace.is_due(now)
    }

    /// Saves what the loop has come to. `begun`: when its copy was begun.
    pub(super) fn save(
        &mut self,
        saved: SavedLoop,
        epoch: Epoch,
        begun: Instant,
        denoiser: &ActorRef<DenoiserMessage>,
    ) {
        let Some(keeper) = self.keeper.clone() else { return };
        self.pace.begin(begun);
        let denoiser = denoiser.clone();
        let encode = move || {
            let steps = saved.progress.step.0;
            // A denoiser that has ended saves nothing more.
            let tell = move || drop(denoiser.send_message(DenoiserMessage::ProgressKept));
            match codec::encode(&saved) {
                Ok(state) => {
                    let progress = Progress { epoch, steps, state: state.into() };
                    // The writer logs what goes wrong, and the next one may succeed.
                    keeper.progress(progress, tell);
                }
                Err(error) => {
                    tracing::warn!(job = %keeper.job, %error, "progress cannot be saved");
                    tell();
                }
            }
        };
        self.encoding = Some(OwnedTask::spawn(async move {
            // A panic would show as progress that is never saved again.
            drop(tokio::task::spawn_blocking(encode).await);
        }));
    }

    /// What was handed over is on disk, or not.
    pub(super) fn handle_kept(&mut self, now: Instant) {
        self.pace.end(now);
    }
}

/// When to save.
struct Pace {
    percent: u32,
    /// The one that is on its way.
    begun: Option<Instant>,
    not_before: Option<Instant>,
}

impl Pace {
    fn new(percent: u32) -> Self {
        Self { percent: percent.max(1), begun: None, not_before: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.begun.is_none() && self.not_before.is_none_or(|time| now >= time)
    }

    fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// The next begins when this one has been the share of the time since its beginning.
    fn end(&mut self, now: Instant) {
        let Some(begun) = self.begun.take() else { return };
        let took = now.saturating_duration_since(begun);
        let period = (took * 100 / self.percent).min(LONGEST_PERIOD);
        self.not_before = Some(begun + period);
    }
}

/// Progress is saved this often at least: one slow write is no reason to lose minutes of a job.
const LONGEST_PERIOD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(4);

    #[test]
    fn saving_takes_no_more_than_its_share_of_the_time() {
        let start = Instant::now();
        let (mut pace, mut now) = (Pace::new(1), start);
        let mut spent = Duration::ZERO;
        // Steps of 30 ms, for half a minute.
        for _step in 0..1000 {
            now += Duration::from_millis(30);
            if pace.is_due(now) {
                pace.begin(now);
                assert!(!pace.is_due(now), "one at a time");
                pace.end(now + TOOK);
                spent += TOOK;
            }
        }
        let share = spent.as_secs_f64() / (now - start).as_secs_f64();
        assert!((0.008..=0.0101).contains(&share), "{share}");
    }

    #[test]
    fn the_first_step_is_saved_and_a_slow_write_does_not_end_saving() {
        let start = Instant::now();
        let mut pace = Pace::new(1);
        assert!(pace.is_due(start));
        pace.begin(start);
        pace.end(start + Duration::from_secs(20));
        assert!(!pace.is_due(start + Duration::from_secs(21)));
        assert!(pace.is_due(start + LONGEST_PERIOD));
    }
}
