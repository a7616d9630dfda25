//! How far a denoising loop has come: everything that it takes to go on, in this process or in another.

use asyncdiff_model::noise_scheduler::{NoiseScheduler, SchedulerError, SchedulerState};
use asyncdiff_plan::{DenoiseEngine, StepIndex};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A loop between two steps.
///
/// What is not in it follows from the job: the timesteps from its noise scheduler's settings, a stochastic method's noise from its seed and
/// the step. So a plan that goes on from here (see [`Schedule::from_step`](asyncdiff_plan::Schedule::from_step)) and is exact gives the bits of a
/// loop that was not interrupted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps taken: the latents are what this step starts from.
    pub step: StepIndex,
    /// `[images, channels, height, width]`, row-major.
    pub latents: Vec<f32>,
    /// What the noise scheduler remembers of earlier steps.
    pub scheduler: SchedulerState,
}

/// Why a loop cannot go on from what was saved.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ProgressError {
    /// The latents, or what the noise scheduler remembers, are of another size.
    #[error("what was saved of the latents has {found} elements instead of {expected}")]
    Elements {
        /// Of the job.
        expected: usize,
        /// What was saved.
        found: usize,
    },
    /// The noise scheduler is another one, or had other settings.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// Plan, latents and noise scheduler are not at the same step.
    #[error("the plan goes on from step {}, the saved latents are those of step {} and the noise scheduler is at step {scheduler}", plan.0, latents.0)]
    Step {
        /// Where the plan begins.
        plan: StepIndex,
        /// Where the latents are.
        latents: StepIndex,
        /// Where the noise scheduler is.
        scheduler: usize,
    },
}

impl Progress {
    /// Checks it against the job that is to go on, and brings its noise scheduler to the step. `elements`: of the job's latents.
    pub(super) fn restore(
        &self,
        engine: &DenoiseEngine,
        elements: usize,
        scheduler: &mut NoiseScheduler,
    ) -> Result<(), ProgressError> {
        check_step(engine, self.step, self.scheduler.next_step())?;
        self.fit(elements, scheduler)
    }

    /// The same before there is a plan.
    pub(crate) fn fit(&self, elements: usize, scheduler: &mut NoiseScheduler) -> Result<(), ProgressError> {
        let remembered = self.scheduler.elements();
        if let Some(found) =
            [Some(self.latents.len()), remembered].into_iter().flatten().find(|&found| found != elements)
        {
            return Err(ProgressError::Elements { expected: elements, found });
        }
        Ok(scheduler.restore(self.scheduler.clone())?)
    }
}

/// Whether a plan goes on where the latents and the noise scheduler are.
pub(super) fn check_step(engine: &DenoiseEngine, latents: StepIndex, scheduler: usize) -> Result<(), ProgressError> {
    let plan = engine.placed().plan.schedule.first;
    if plan == latents && plan.index() == scheduler {
        return Ok(());
    }
    Err(ProgressError::Step { plan, latents, scheduler })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use asyncdiff_common::codec;
    use asyncdiff_model::noise_scheduler::{SchedulerConfig, SchedulerKind};
    use asyncdiff_model::seeded_noise::standard_normal;
    use asyncdiff_plan::{
        Event, InputId, InputKind, InputSpec, Lane, Layer, Operand, Ownership, Partition, PlacedPlan, Plan, Program,
        Rank, Schedule, ValueId, ValueSpec,
    };

    use super::*;
    use crate::denoise::{DenoiseLoop, Effect, LatentsShape, LoopSettings, floats_from_bytes};

    const SHAPE: LatentsShape = LatentsShape { images: 1, channels: 2, height: 3, width: 4 };
    const SEED: u64 = 7;

    fn scheduler(kind: SchedulerKind) -> NoiseScheduler {
        let config = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
            "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false, "steps_offset": 1,
            "skip_prk_steps": true}"#;
        NoiseScheduler::new(&SchedulerConfig::from_json(config).unwrap().with_kind(kind), 8, SEED).unwrap()
    }

    /// A denoiser of one layer, from a step on.
    fn engine(evaluations: usize, first: StepIndex) -> DenoiseEngine {
        let spec = || ValueSpec::f32(vec![SHAPE.channels, SHAPE.height, SHAPE.width]);
        let input = InputSpec { kind: InputKind::Latents, value: spec() };
        let layer = Layer {
            name: "denoiser".to_owned(),
            reads: vec![Operand::Input(InputId(0))],
            writes: spec(),
            ownership: Ownership::Owned,
            weights: Vec::new(),
            flops: 1,
        };
        let program = Arc::new(Program::new(vec![input], vec![layer], ValueId(0)).unwrap());
        let schedule = Schedule::sequential(NonZeroU32::new(evaluations as u32).unwrap()).from_step(first);
        let plan = Plan::new(&program, &Partition::whole(&program), schedule).unwrap();
        DenoiseEngine::new(PlacedPlan::new(plan, vec![Rank(0)]).unwrap(), Duration::MAX, Instant::now())
    }

    fn settings() -> LoopSettings {
        LoopSettings { shape: SHAPE, guidance_scale: Some(3.0) }
    }

    /// Goes on until some steps are taken, or to the end.
    fn advance(denoise_loop: &mut DenoiseLoop, until: usize) {
        let now = Instant::now();
        denoise_loop.handle_event(Event::Ready, now);
        while let Some(effect) = denoise_loop.poll_effect(now) {
            let Effect::SendLatents { step, payload, .. } = effect else { continue };
            if step.index() == until {
                return;
            }
            let rows = floats_from_bytes(&payload).into_iter().enumerate();
            let predicted: Vec<u8> = rows
                .flat_map(|(row, value)| (value * 0.4 + (row + step.index()) as f32 * 0.01).to_le_bytes())
                .collect();
            denoise_loop.handle_prediction((step, Lane::Whole), Rank(0), &predicted, now);
        }
    }

    fn start(kind: SchedulerKind) -> DenoiseLoop {
        let scheduler = scheduler(kind);
        let engine = engine(scheduler.evaluations(), StepIndex(0));
        DenoiseLoop::new(engine, scheduler, settings(), &standard_normal(SEED, SHAPE.elements()))
    }

    #[test]
    fn a_loop_saved_at_any_step_goes_on_with_the_bits_of_one_that_was_not_interrupted() {
        for kind in SchedulerKind::ALL {
            let evaluations = scheduler(kind).evaluations();
            let mut undisturbed = start(kind);
            advance(&mut undisturbed, usize::MAX);
            let expected = undisturbed.into_denoised();
            for step in 0..evaluations {
                let mut interrupted = start(kind);
                advance(&mut interrupted, step);
                let saved: Progress = codec::decode(&codec::encode(&interrupted.progress()).unwrap()).unwrap();
                assert_eq!(saved.step.index(), step, "{kind}");
                let engine = engine(evaluations, saved.step);
                let mut resumed = DenoiseLoop::resume(engine, scheduler(kind), settings(), saved).unwrap();
                advance(&mut resumed, usize::MAX);
                assert_eq!(resumed.into_denoised(), expected, "{kind} at step {step}");
            }
        }
    }

    #[test]
    fn a_loop_that_changes_its_plan_at_every_step_gives_the_same_bits() {
        for kind in SchedulerKind::ALL {
            let mut undisturbed = start(kind);
            advance(&mut undisturbed, usize::MAX);
            let evaluations = scheduler(kind).evaluations();
            let mut replanned = start(kind);
            for step in 1..evaluations {
                advance(&mut replanned, step);
                replanned.replan(engine(evaluations, StepIndex(step as u32))).unwrap();
            }
            advance(&mut replanned, usize::MAX);
            assert_eq!(replanned.into_denoised(), undisturbed.into_denoised(), "{kind}");
        }
    }

    #[test]
    fn what_was_saved_of_another_job_or_step_is_refused() {
        let mut interrupted = start(SchedulerKind::Lms);
        advance(&mut interrupted, 3);
        let saved = interrupted.progress();
        let evaluations = scheduler(SchedulerKind::Lms).evaluations();
        let resume = |first, kind, saved: &Progress| {
            let engine = engine(evaluations, StepIndex(first));
            DenoiseLoop::resume(engine, scheduler(kind), settings(), saved.clone()).err()
        };
        assert_eq!(resume(3, SchedulerKind::Lms, &saved), None);
        assert!(matches!(resume(2, SchedulerKind::Lms, &saved), Some(ProgressError::Step { .. })));
        assert!(matches!(resume(3, SchedulerKind::Ddim, &saved), Some(ProgressError::Scheduler(_))));
        let short = Progress { latents: vec![0.0; 5], ..saved.clone() };
        assert!(matches!(resume(3, SchedulerKind::Lms, &short), Some(ProgressError::Elements { found: 5, .. })));
        let elsewhere = Progress { step: StepIndex(2), ..saved };
        assert!(matches!(resume(3, SchedulerKind::Lms, &elsewhere), Some(ProgressError::Step { .. })));
        assert!(matches!(interrupted.replan(engine(evaluations, StepIndex(4))), Err(ProgressError::Step { .. })));
    }
}
