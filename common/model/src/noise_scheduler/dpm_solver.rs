//! DPM-Solver++, multistep, of first to third order: exact in the linear part, a Taylor series of the denoised latents
//! over half the logarithm of the signal to noise ratio.
//!
//! arXiv 2211.01095, algorithm 2 and its third order; `heun` is the other way to second order there. With the latents
//! `x`, the denoised latents `m` and `h` the step in that logarithm:
//!
//! ```text
//! x' = sigma' / sigma * x - alpha' * expm1(-h) * (m + D1 / 2)          D1: slope of m times h
//! ```

use super::linear::combine;
use super::options::{FinalSigma, Options, PredictionType, SolverType};
use super::prediction::{denoised, signal_and_noise};
use super::scheduler::Solver;
use super::state::{Memory, Remembered};

/// Runs with fewer steps than this end in lower order, for stability (diffusers' number).
const FEW_STEPS: usize = 15;

/// The method with its tables.
pub(super) struct DpmSolver {
    prediction: PredictionType,
    order: usize,
    solver_type: SolverType,
    lower_order_final: bool,
    euler_at_final: bool,
    final_sigma: FinalSigma,
    sigmas: Vec<f64>,
}

impl DpmSolver {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>) -> Self {
        Self {
            prediction: options.prediction,
            order: options.solver_order,
            solver_type: options.solver_type,
            lower_order_final: options.lower_order_final,
            euler_at_final: options.euler_at_final,
            final_sigma: options.final_sigma,
            sigmas,
        }
    }

    /// What a step can use of the earlier ones, less where the run ends.
    fn order_at(&self, step: usize) -> usize {
        let steps = self.sigmas.len() - 1;
        let lower = self.lower_order_final && steps < FEW_STEPS;
        let left = steps - step;
        let limit = match left {
            // The logarithm of sigma zero is infinite: nothing but the denoised latents is left.
            1 if lower || self.euler_at_final || self.final_sigma == FinalSigma::Zero => 1,
            2 if lower => 2,
            _ => self.order,
        };
        limit.min(self.order).min(step + 1)
    }

    /// Weights of the denoised latents, the newest first.
    fn weights(&self, step: usize) -> Vec<f64> {
        let log_ratio = |index: usize| -self.sigmas[index].ln();
        let (alpha, _) = signal_and_noise(self.sigmas[step + 1]);
        let h = log_ratio(step + 1) - log_ratio(step);
        let decay = (-h).exp_m1();
        let order = self.order_at(step);
        if order == 1 {
            return vec![-alpha * decay];
        }
        // Slopes between neighbours times h: r is the length of the earlier step over this one's.
        let r0 = (log_ratio(step) - log_ratio(step - 1)) / h;
        let second = alpha * (decay / h + 1.0);
        if order == 2 {
            let slope = match self.solver_type {
                SolverType::Heun => second,
                _ => -0.5 * alpha * decay,
            };
            return vec![-alpha * decay + slope / r0, -slope / r0];
        }
        let r1 = (log_ratio(step - 1) - log_ratio(step - 2)) / h;
        let third = -alpha * ((decay + h) / (h * h) - 0.5);
        // First derivative: near + r0 / (r0 + r1) * (near - far); second: (near - far) / (r0 + r1).
        let near = second * (1.0 + r0 / (r0 + r1)) + third / (r0 + r1);
        let far = -second * r0 / (r0 + r1) - third / (r0 + r1);
        vec![-alpha * decay + near / r0, -near / r0 + far / r1, -far / r1]
    }
}

impl Solver for DpmSolver {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let (alpha, noise) = signal_and_noise(self.sigmas[step]);
        memory.push(self.order, denoised(self.prediction, alpha, noise), latents, noise_prediction);
        if self.sigmas[step + 1] == self.sigmas[step] {
            // A final sigma that the last step already has: there is no way to go, and nothing to divide by.
            return;
        }
        let (_, next_noise) = signal_and_noise(self.sigmas[step + 1]);
        let weights = self.weights(step);
        let terms: Vec<(f64, &[f32])> =
            weights.into_iter().zip(&memory.history).map(|(weight, denoised)| (weight, denoised.as_slice())).collect();
        combine(latents, next_noise / noise, &terms);
    }

    fn remembered(&self, step: usize) -> Remembered {
        Remembered { history: step.min(self.order), ..Remembered::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn solver(order: usize, solver_type: SolverType) -> DpmSolver {
        DpmSolver {
            prediction: PredictionType::Epsilon,
            order,
            solver_type,
            lower_order_final: false,
            euler_at_final: false,
            final_sigma: FinalSigma::SigmaMin,
            sigmas: vec![12.0, 7.0, 3.5, 1.4, 0.5],
        }
    }

    #[test]
    fn denoised_latents_that_stay_the_same_are_weighed_alike_by_every_order() {
        for solver_type in [SolverType::Midpoint, SolverType::Heun] {
            let sum = |order| solver(order, solver_type).weights(3).into_iter().sum::<f64>();
            assert!((sum(1) - sum(2)).abs() < 1e-12);
            assert!((sum(1) - sum(3)).abs() < 1e-12);
        }
    }

    #[test]
    fn denoised_latents_on_a_line_in_the_logarithm_are_integrated_exactly() {
        for (order, solver_type) in [(2, SolverType::Heun), (3, SolverType::Midpoint)] {
            let solver = solver(order, solver_type);
            let log_ratio = |index: usize| -solver.sigmas[index].ln();
            let line = |lambda: f64| 0.3 + 0.7 * lambda;
            let weights = solver.weights(3).into_iter().enumerate();
            let found: f64 = weights.map(|(age, weight)| weight * line(log_ratio(3 - age))).sum();
            // sigma' times the integral of e^lambda times the line (arXiv 2211.01095, proposition 4.1).
            let antiderivative = |lambda: f64| lambda.exp() * (line(lambda) - 0.7);
            let (_, noise) = signal_and_noise(solver.sigmas[4]);
            let expected = noise * (antiderivative(log_ratio(4)) - antiderivative(log_ratio(3)));
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        }
    }
}
