//! Heun's method on sigmas: a trial step of Euler's, then the step with the mean of the slopes at both of its ends.
//!
//! arXiv 2206.00364, algorithm 2 without churn. Even evaluations make the trial, odd ones the step; the last step goes
//! to sigma zero, where there is no slope, and stays Euler's.

use super::linear::{Mix, combine};
use super::options::{Options, PredictionType};
use super::prediction::{clipped, denoised_at, derivative_at};
use super::scheduler::Solver;
use super::sigmas::SigmaTable;
use super::state::{Memory, Remembered};

/// Heun's method with its tables.
pub(super) struct Heun {
    prediction: PredictionType,
    clip_range: Option<f64>,
    /// The denoiser's noise level by evaluation, and the final one.
    sigmas: Vec<f64>,
}

impl Heun {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>) -> Self {
        Self { prediction: options.prediction, clip_range: options.clip_range, sigmas }
    }

    /// The table by evaluation instead of by step: all but the ends come twice.
    pub(super) fn twice(table: &SigmaTable) -> SigmaTable {
        let (first, rest) = table.timesteps.split_at(1);
        let timesteps = first.iter().chain(rest.iter().flat_map(|timestep| [timestep, timestep])).copied().collect();
        let last = table.sigmas.len() - 1;
        let repeats = |index: usize| if index == 0 || index == last { 1 } else { 2 };
        let sigmas = table.sigmas.iter().enumerate();
        let sigmas = sigmas.flat_map(|(index, sigma)| std::iter::repeat_n(*sigma, repeats(index))).collect();
        SigmaTable { timesteps, sigmas }
    }

    /// From `memory.anchor` over the mean of the remembered slope and of the one here.
    fn correct(&self, way: f64, slope: Mix, prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let half = way / 2.0;
        let Memory { anchor, partial, .. } = memory;
        let terms = [(half * slope.prediction, prediction), (1.0, anchor.as_slice()), (half, partial.as_slice())];
        combine(latents, half * slope.latents, &terms);
        anchor.clear();
        partial.clear();
    }
}

impl Solver for Heun {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let sigma = self.sigmas[step];
        let picture;
        // Clipped latents are as good as a model that predicted them.
        let (prediction_type, prediction) = match self.clip_range {
            Some(range) => {
                picture = clipped(denoised_at(self.prediction, sigma), latents, noise_prediction, range);
                (PredictionType::Sample, picture.as_slice())
            }
            None => (self.prediction, noise_prediction),
        };
        let slope = derivative_at(prediction_type, sigma);
        if step % 2 == 1 {
            let way = sigma - self.sigmas[step - 1];
            return self.correct(way, slope, prediction, latents, memory);
        }
        if step + 1 < self.sigmas.len() - 1 {
            memory.set_anchor(latents);
            slope.write(&mut memory.partial, latents, prediction);
        }
        let way = self.sigmas[step + 1] - sigma;
        combine(latents, 1.0 + way * slope.latents, &[(way * slope.prediction, prediction)]);
    }

    fn remembered(&self, step: usize) -> Remembered {
        let between = step % 2 == 1 && step < self.sigmas.len() - 1;
        Remembered { history: 0, anchor: between, partial: between }
    }
}
