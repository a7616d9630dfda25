//! Where a run's steps lie on the trained timesteps (arXiv 2305.08891, table 2), latest first.

use super::options::{Options, TimestepSpacing};

/// From the last trained timestep down to the first: DDIM, PNDM, Euler, Heun, LMS. Linspace is not rounded here, since
/// the sigma methods keep its fractions.
pub(super) fn down_to_first(options: &Options, steps: usize) -> Vec<f64> {
    let train_timesteps = options.train_timesteps;
    match options.spacing {
        TimestepSpacing::Leading => {
            let stride = train_timesteps / steps;
            (0..steps).rev().map(|index| (index * stride + options.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => linspace(train_timesteps - 1, steps),
        TimestepSpacing::Trailing => trailing(train_timesteps, train_timesteps, steps),
    }
}

/// The same one step short of the first trained timestep: the DPM solvers, which end at its noise level. `end` is one
/// past the last timestep that is used.
pub(super) fn short_of_first(options: &Options, end: usize, steps: usize) -> Vec<f64> {
    match options.spacing {
        TimestepSpacing::Leading => {
            let stride = end / (steps + 1);
            (1..=steps).rev().map(|index| (index * stride + options.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => {
            let points = linspace(end - 1, steps + 1);
            points[..steps].iter().map(|point| point.round_ties_even()).collect()
        }
        TimestepSpacing::Trailing => trailing(options.train_timesteps, end, steps),
    }
}

/// From `last` down to zero; a single point is zero.
fn linspace(last: usize, points: usize) -> Vec<f64> {
    if points == 1 {
        return vec![0.0];
    }
    let stride = last as f64 / (points - 1) as f64;
    let value = |index: usize| if index == points - 1 { last as f64 } else { index as f64 * stride };
    (0..points).rev().map(value).collect()
}

/// From `end` down in parts of the trained timesteps. diffusers makes one value too many for some numbers of steps (61
/// of 1000 is the first), a timestep of minus one, by rounding; it is left out here.
fn trailing(train_timesteps: usize, end: usize, steps: usize) -> Vec<f64> {
    let stride = train_timesteps as f64 / steps as f64;
    // As numpy counts: the stride is what is left of it next to the first value.
    let stride = end as f64 - (end as f64 - stride);
    let points = (0..steps).map(|index| (end as f64 - index as f64 * stride).round_ties_even() - 1.0);
    points.take_while(|timestep| *timestep >= 0.0).collect()
}
