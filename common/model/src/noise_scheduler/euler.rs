//! Euler's method on sigmas, and its ancestral variant, which goes further down than asked and adds noise back.
//!
//! arXiv 2206.00364, algorithm 2 without its second order and its churn. Ancestral: the step of `k-diffusion`'s
//! `sample_euler_ancestral`, which with its two sigmas keeps the variance: `down^2 + up^2 = to^2`.

use crate::seeded_noise::standard_normal_of_step;

use super::linear::combine;
use super::options::{Options, PredictionType};
use super::prediction::derivative_at;
use super::scheduler::Solver;
use super::state::{Memory, Remembered};

/// Euler's method with its tables.
pub(super) struct Euler {
    prediction: PredictionType,
    sigmas: Vec<f64>,
}

impl Euler {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>) -> Self {
        Self { prediction: options.prediction, sigmas }
    }
}

impl Solver for Euler {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], _memory: &mut Memory) {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let slope = derivative_at(self.prediction, from);
        let way = to - from;
        combine(latents, 1.0 + way * slope.latents, &[(way * slope.prediction, noise_prediction)]);
    }

    fn remembered(&self, _step: usize) -> Remembered {
        Remembered::default()
    }
}

/// The ancestral variant with its tables. A step's noise follows from the seed and the step alone.
pub(super) struct EulerAncestral {
    prediction: PredictionType,
    sigmas: Vec<f64>,
    seed: u64,
    /// A step and its noise, drawn ahead of time.
    prepared: Option<(usize, Vec<f32>)>,
}

impl EulerAncestral {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>, seed: u64) -> Self {
        Self { prediction: options.prediction, sigmas, seed, prepared: None }
    }

    /// The step's noise, drawn now unless it was drawn ahead.
    fn noise(&mut self, step: usize, elements: usize) -> Vec<f32> {
        match self.prepared.take() {
            Some((prepared, noise)) if prepared == step && noise.len() == elements => noise,
            _ => standard_normal_of_step(self.seed, step, elements),
        }
    }
}

impl Solver for EulerAncestral {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], _memory: &mut Memory) {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let (down, up) = down_and_up(from, to);
        let slope = derivative_at(self.prediction, from);
        let way = down - from;
        let (own, weight) = (1.0 + way * slope.latents, way * slope.prediction);
        if up > 0.0 {
            let added = self.noise(step, latents.len());
            combine(latents, own, &[(weight, noise_prediction), (up, &added)]);
        } else {
            combine(latents, own, &[(weight, noise_prediction)]);
        }
    }

    fn prepare(&mut self, step: usize, elements: usize) {
        self.prepared = Some((step, standard_normal_of_step(self.seed, step, elements)));
    }

    fn remembered(&self, _step: usize) -> Remembered {
        Remembered::default()
    }
}

/// The sigma to go down to, and that of the noise to add there.
fn down_and_up(from: f64, to: f64) -> (f64, f64) {
    let up = (to * to * (from * from - to * to).max(0.0) / (from * from)).sqrt();
    ((to * to - up * up).max(0.0).sqrt(), up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_down_and_adding_noise_keeps_the_variance_asked_for() {
        for (from, to) in [(14.6, 12.1), (2.0, 1.9), (0.03, 0.0), (1.0, 1.0)] {
            let (down, up) = down_and_up(from, to);
            assert!((down * down + up * up - to * to).abs() < 1e-12, "{from} to {to}");
            assert!(down <= to, "{from} to {to}");
        }
    }
}
