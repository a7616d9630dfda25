//! Linear multistep method on sigmas: the polynomial through the last four slopes, integrated (Adams and Bashforth on
//! uneven points, as in `k-diffusion`'s `sample_lms`).

use super::linear::combine;
use super::options::{Options, PredictionType};
use super::prediction::derivative_at;
use super::scheduler::Solver;
use super::state::{Memory, Remembered};

/// Slopes that a step uses; diffusers' default.
const ORDER: usize = 4;

/// The method with its tables.
pub(super) struct Lms {
    prediction: PredictionType,
    sigmas: Vec<f64>,
}

impl Lms {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>) -> Self {
        Self { prediction: options.prediction, sigmas }
    }

    /// The integral over a step of the polynomial that is one at the sigma of slope `which` (0 is the newest) and zero
    /// at the others'.
    fn weight(&self, step: usize, order: usize, which: usize) -> f64 {
        let (from, to) = (self.sigmas[step], self.sigmas[step + 1]);
        let own = self.sigmas[step - which];
        let others = (0..order).filter(|other| *other != which).map(|other| self.sigmas[step - other]);
        let others: Vec<f64> = others.collect();
        let value = |sigma: f64| others.iter().map(|other| (sigma - other) / (own - other)).product::<f64>();
        // Gauss and Legendre's two points are exact up to the third degree, and a polynomial through four points has no
        // more.
        let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
        let offset = half / 3f64.sqrt();
        half * (value(middle - offset) + value(middle + offset))
    }
}

impl Solver for Lms {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let slope = derivative_at(self.prediction, self.sigmas[step]);
        memory.push(ORDER, slope, latents, noise_prediction);
        let order = memory.history.len();
        // The newest slope not as remembered: at a sigma of thousands its rounding to f32 would show.
        let newest = self.weight(step, order, 0);
        let mut terms = vec![(newest * slope.prediction, noise_prediction)];
        let older = memory.history.iter().enumerate().skip(1);
        terms.extend(older.map(|(which, slope)| (self.weight(step, order, which), slope.as_slice())));
        combine(latents, 1.0 + newest * slope.latents, &terms);
    }

    fn remembered(&self, step: usize) -> Remembered {
        Remembered { history: step.min(ORDER), ..Remembered::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_any_cubic_are_integrated_exactly() {
        let lms = Lms { prediction: PredictionType::Epsilon, sigmas: vec![9.0, 6.5, 4.0, 2.5, 1.0] };
        let slope = |sigma: f64| 2.0 * sigma.powi(3) - 5.0 * sigma + 1.0;
        let integral = |sigma: f64| 0.5 * sigma.powi(4) - 2.5 * sigma * sigma + sigma;
        let sum: f64 = (0..ORDER).map(|which| lms.weight(3, ORDER, which) * slope(lms.sigmas[3 - which])).sum();
        assert!((sum - (integral(1.0) - integral(2.5))).abs() < 1e-10, "{sum}");
    }
}
