//! The settings that a plan is made from: steps, stride, warm-up, time shift, guidance.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Lane, StepIndex};

/// What the user (or the policy) decided about a denoising loop, whatever the partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Evaluations of the denoiser, at least 1; those before `first` included.
    pub steps: NonZeroU32,
    /// The first step that is made: 0, or where a job that was interrupted goes on; see [`Self::from_step`].
    pub first: StepIndex,
    /// Steps served by one round.
    pub stride: NonZeroU32,
    /// Steps that are computed exactly, in sequence through all components: those before this one.
    pub warm_up: u32,
    /// Which timestep conditions a run after the warm-up.
    pub time_shift: TimeShift,
    /// How the two halves of classifier-free guidance are computed.
    pub guidance: Guidance,
    /// How a warm-up step's batch goes through the components.
    pub warm_up_batch: WarmUpBatch,
    /// Where rounds start.
    pub round_start: RoundStart,
}

/// Which timestep conditions a run after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TimeShift {
    /// The timestep of the step whose noise prediction the run makes.
    Off,
    /// The timestep one step earlier (AsyncDiff's `time_shift`): it fits hidden states that are one round old.
    On,
}

/// How the two halves of classifier-free guidance are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Guidance {
    /// Both halves as one batch.
    Batched,
    /// Guidance is off: only the conditional half exists.
    Off,
    /// Each half in a lane of its own, on workers of its own where there are enough. Exact.
    Split,
}

/// How a warm-up step's batch goes through the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WarmUpBatch {
    /// The two guidance halves as micro-batches, pipelined: while one component computes the second half, the next one computes the first. Exact.
    Halves,
    /// The whole batch through one component after another.
    Whole,
}

/// Where rounds start after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoundStart {
    /// At the end of the warm-up and every stride from there: the intended semantics.
    AfterWarmUp,
    /// At odd steps, as in the published stride-2 code; after an even warm-up it repeats the last noise prediction once. For comparison only.
    OddSteps,
}

/// Why settings make no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// Several components and no step to fill their registers.
    #[error(
        "warm-up 0 leaves {components} components without hidden states to start from\nhint: use a warm-up of at least 1, or one component"
    )]
    NoWarmUp {
        /// How many components.
        components: usize,
    },
    /// Odd-step rounds are defined for stride 1 and 2.
    #[error(
        "rounds at odd steps are defined for stride 1 and 2, not for {0}\nhint: use rounds that start after the warm-up"
    )]
    OddSteps(NonZeroU32),
}

/// Steps that are computed side by side, from the same latents and registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// The first step; its latents are what all runs of the round read.
    pub first: StepIndex,
    /// The last step; its run writes the registers.
    pub last: StepIndex,
}

impl Schedule {
    /// Sequential denoising, guidance halves as one batch.
    #[must_use]
    pub fn sequential(steps: NonZeroU32) -> Self {
        Self {
            steps,
            first: StepIndex(0),
            stride: NonZeroU32::MIN,
            warm_up: steps.get(),
            time_shift: TimeShift::Off,
            guidance: Guidance::Batched,
            warm_up_batch: WarmUpBatch::Whole,
            round_start: RoundStart::AfterWarmUp,
        }
    }

    /// The same settings from a step on, whoever made the steps before it: a step that is left of the warm-up is still exact, and the first one
    /// is in any case, since it fills every register (a *refresh*). Step indices keep their meaning.
    #[must_use]
    pub fn from_step(self, first: StepIndex) -> Self {
        if first.0 == 0 {
            return self;
        }
        let first = StepIndex(first.0.min(self.steps.get()));
        Self { first, warm_up: self.warm_up.max(first.0.saturating_add(1)), ..self }
    }

    /// Checks the settings against a number of components.
    pub fn check(&self, components: usize) -> Result<(), ScheduleError> {
        if self.warm_up <= self.first.0 && components > 1 {
            return Err(ScheduleError::NoWarmUp { components });
        }
        if self.round_start == RoundStart::OddSteps && self.stride.get() > 2 {
            return Err(ScheduleError::OddSteps(self.stride));
        }
        Ok(())
    }

    /// The step after the warm-up, and the number of its steps where they begin with step 0.
    #[must_use]
    pub fn warm_up_steps(&self) -> u32 {
        self.warm_up.min(self.steps.get())
    }

    /// Number of steps that are made: all but those before [`Self::first`].
    #[must_use]
    pub fn remaining_steps(&self) -> u32 {
        self.steps.get().saturating_sub(self.first.0)
    }

    /// The rounds after the warm-up, in order.
    #[must_use]
    pub fn rounds(&self) -> Vec<Round> {
        let mut rounds = Vec::new();
        let mut first = self.warm_up_steps() + u32::from(self.repeats_a_prediction());
        while first < self.steps.get() {
            let last = first.saturating_add(self.stride.get() - 1).min(self.steps.get() - 1);
            rounds.push(Round { first: StepIndex(first), last: StepIndex(last) });
            first = last + 1;
        }
        rounds
    }

    /// Whether the step after the warm-up uses the noise prediction before it once more: the published code at stride 2 after an even warm-up.
    #[must_use]
    pub fn repeats_a_prediction(&self) -> bool {
        let even = self.warm_up_steps().is_multiple_of(2) && self.warm_up_steps() > 0;
        self.round_start == RoundStart::OddSteps && self.stride.get() == 2 && even && self.warm_up < self.steps.get()
    }

    /// The lanes that runs after the warm-up have.
    #[must_use]
    pub fn lanes(&self) -> &'static [Lane] {
        match self.guidance {
            Guidance::Batched | Guidance::Off => &[Lane::Whole],
            Guidance::Split => &Lane::HALVES,
        }
    }

    /// The lanes that warm-up runs have.
    #[must_use]
    pub fn warm_up_lanes(&self) -> &'static [Lane] {
        match (self.guidance, self.warm_up_batch) {
            (Guidance::Off, _) | (Guidance::Batched, WarmUpBatch::Whole) => &[Lane::Whole],
            (Guidance::Batched, WarmUpBatch::Halves) | (Guidance::Split, _) => &Lane::HALVES,
        }
    }

    /// The step whose timestep conditions the run that makes the noise prediction of `step` after the warm-up.
    #[must_use]
    pub fn conditioning_step(&self, step: StepIndex) -> StepIndex {
        match self.time_shift {
            TimeShift::Off => step,
            TimeShift::On => StepIndex(step.0.saturating_sub(1)),
        }
    }
}
