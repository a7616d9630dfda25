//! UniPC: a predictor like DPM-Solver++'s, and a corrector that uses the next noise prediction to mend the step before
//! it.
//!
//! arXiv 2302.04867, algorithms 5 (corrector) and 6 (predictor) with data prediction, B(h) = h (`bh1`) or expm1(h)
//! (`bh2`). With the denoised latents `m` before the step and `m_k` of earlier steps at `r_k` steps' distance in the
//! logarithm of the signal to noise ratio:
//!
//! ```text
//! x' = sigma' / sigma * x - alpha' * expm1(-h) * m - alpha' * B * sum of rho_k * (m_k - m) / r_k
//! ```

use super::linear::combine;
use super::options::{Options, PredictionType, SolverType};
use super::prediction::{denoised, signal_and_noise};
use super::scheduler::Solver;
use super::state::{Memory, Remembered};

/// The method with its tables.
pub(super) struct Unipc {
    prediction: PredictionType,
    order: usize,
    solver_type: SolverType,
    lower_order_final: bool,
    disable_corrector: Vec<usize>,
    sigmas: Vec<f64>,
}

/// A step's equation without its rho.
struct Update {
    /// Of the latents before it.
    own: f64,
    /// Of the denoised latents before it, if nothing changed since earlier.
    constant: f64,
    /// Of each difference.
    slope: f64,
    /// Distances of the earlier denoised latents.
    distances: Vec<f64>,
    /// Right-hand sides that the rho must meet, by power of the distance.
    moments: Vec<f64>,
}

impl Unipc {
    pub(super) fn new(options: &Options, sigmas: Vec<f64>) -> Self {
        Self {
            prediction: options.prediction,
            order: options.solver_order,
            solver_type: options.solver_type,
            lower_order_final: options.lower_order_final,
            disable_corrector: options.disable_corrector.clone(),
            sigmas,
        }
    }

    /// Of the predictor at a step, and of the corrector that mends it.
    fn order_at(&self, step: usize) -> usize {
        let left = self.sigmas.len() - 1 - step;
        let limit = if self.lower_order_final { self.order.min(left) } else { self.order };
        limit.min(step + 1)
    }

    /// From the sigma of `step` to the next, with `order - 1` earlier denoised latents.
    fn update(&self, step: usize, order: usize) -> Update {
        let log_ratio = |index: usize| -self.sigmas[index].ln();
        let (_, noise) = signal_and_noise(self.sigmas[step]);
        let (next_alpha, next_noise) = signal_and_noise(self.sigmas[step + 1]);
        let h = log_ratio(step + 1) - log_ratio(step);
        let decay = (-h).exp_m1();
        let scale = if self.solver_type == SolverType::Bh1 { -h } else { decay };
        let distances = (1..order).map(|age| (log_ratio(step - age) - log_ratio(step)) / h).collect();
        let mut moments = Vec::with_capacity(order);
        let (mut phi, mut factorial) = (decay / -h - 1.0, 1.0);
        for power in 1..=order {
            moments.push(phi * factorial / scale);
            factorial *= (power + 1) as f64;
            phi = phi / -h - 1.0 / factorial;
        }
        Update {
            own: next_noise / noise,
            constant: -next_alpha * decay,
            slope: -next_alpha * scale,
            distances,
            moments,
        }
    }

    /// The step before `step` once more from its latents, now with the denoised latents at its end too.
    fn correct(&self, step: usize, denoised_here: &[f32], latents: &mut [f32], memory: &Memory) {
        let order = self.order_at(step - 1);
        let update = self.update(step - 1, order);
        let mut distances = update.distances.clone();
        distances.push(1.0);
        // The paper's choice for first order, where the equation alone would depend on h.
        let rho = if order == 1 { vec![0.5] } else { solve_moments(&distances, &update.moments) };
        let weights: Vec<f64> =
            rho.iter().zip(&distances).map(|(rho, distance)| update.slope * rho / distance).collect();
        let newest = update.constant - weights.iter().sum::<f64>();
        let mut terms = vec![(update.own, memory.anchor.as_slice()), (newest, memory.history[0].as_slice())];
        let arrays = memory.history[1..].iter().take(order - 1).map(Vec::as_slice).chain([denoised_here]);
        terms.extend(weights.into_iter().zip(arrays));
        combine(latents, 0.0, &terms);
    }

    fn predict(&self, step: usize, latents: &mut [f32], memory: &Memory) {
        if self.sigmas[step + 1] == self.sigmas[step] {
            // A final sigma that the last step already has: there is no way to go, and nothing to divide by.
            return;
        }
        let order = self.order_at(step);
        let update = self.update(step, order);
        let rho = match order {
            1 => Vec::new(),
            2 => vec![0.5],
            _ => solve_moments(&update.distances, &update.moments[..order - 1]),
        };
        let weights: Vec<f64> =
            rho.iter().zip(&update.distances).map(|(rho, distance)| update.slope * rho / distance).collect();
        let newest = update.constant - weights.iter().sum::<f64>();
        let mut terms = vec![(newest, memory.history[0].as_slice())];
        terms.extend(weights.into_iter().zip(memory.history[1..].iter().map(Vec::as_slice)));
        combine(latents, update.own, &terms);
    }
}

impl Solver for Unipc {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let (alpha, noise) = signal_and_noise(self.sigmas[step]);
        let mut picture = std::mem::take(&mut memory.partial);
        denoised(self.prediction, alpha, noise).write(&mut picture, latents, noise_prediction);
        if step > 0 && !self.disable_corrector.contains(&(step - 1)) {
            self.correct(step, &picture, latents, memory);
        }
        if memory.history.len() < self.order {
            memory.history.push(Vec::new());
        }
        memory.history.rotate_right(1);
        std::mem::swap(&mut memory.history[0], &mut picture);
        picture.clear();
        memory.partial = picture;
        memory.set_anchor(latents);
        self.predict(step, latents, memory);
    }

    fn remembered(&self, step: usize) -> Remembered {
        Remembered { history: step.min(self.order), anchor: step > 0, partial: false }
    }
}

/// The rho for which `sum of rho_k * distance_k^power` is each power's moment: a Vandermonde system, by elimination
/// with pivots.
fn solve_moments(distances: &[f64], moments: &[f64]) -> Vec<f64> {
    let size = distances.len();
    let row =
        |power: usize| distances.iter().map(|distance| distance.powi(power as i32)).chain([moments[power]]).collect();
    let mut rows: Vec<Vec<f64>> = (0..size).map(row).collect();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| rows[*a][column].abs().total_cmp(&rows[*b][column].abs()));
        rows.swap(column, pivot.unwrap_or(column));
        let pivot_row = rows[column].clone();
        for (_, row) in rows.iter_mut().enumerate().filter(|(index, _)| *index != column) {
            let factor = row[column] / pivot_row[column];
            row.iter_mut().zip(&pivot_row).for_each(|(value, pivot)| *value -= factor * pivot);
        }
    }
    rows.iter().enumerate().map(|(index, row)| row[size] / row[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_met() {
        let distances = [-1.3, -2.1, 1.0];
        let moments = [0.4, -0.7, 0.2];
        let rho = solve_moments(&distances, &moments);
        for (power, moment) in moments.iter().enumerate() {
            let sum: f64 = rho.iter().zip(distances).map(|(rho, distance)| rho * distance.powi(power as i32)).sum();
            assert!((sum - moment).abs() < 1e-12, "power {power}");
        }
    }
}
