//! What a placement starts from: noise, or a step that was reached before.

use asyncdiff_model::noise_scheduler::NoiseScheduler;
use asyncdiff_plan::StepIndex;

use super::denoising::Denoising;
use crate::denoise;

/// What a placement starts from.
pub(super) enum Start {
    /// Noise.
    Fresh(Box<(NoiseScheduler, Vec<f32>)>),
    /// The step that an earlier life of the coordinator saved.
    Saved(Box<(NoiseScheduler, denoise::Progress)>),
    /// The step that an earlier placement has come to.
    Interrupted(Box<Denoising>),
}

impl Start {
    pub(super) fn step(&self) -> StepIndex {
        match self {
            Self::Fresh(_) => StepIndex(0),
            Self::Saved(saved) => saved.1.step,
            Self::Interrupted(denoising) => StepIndex(denoising.steps_taken()),
        }
    }
}
