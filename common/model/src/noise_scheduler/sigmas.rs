//! Timesteps and sigmas of a run: sigma is the noise of latents that are divided by their signal.
//!
//! Tables are rounded to f32 where diffusers rounds them, so that the denoiser is conditioned on the same numbers.

use super::SchedulerError;
use super::kind::SchedulerClass;
use super::options::{
    BetaSchedule, FinalSigma, Interpolation, Options, PredictionType, TimestepSpacing, TimestepType, invalid,
};
use super::timesteps::{down_to_first, short_of_first};

/// The exponent of Karras et al. (equation 5 of arXiv 2206.00364).
const KARRAS_RHO: f64 = 7.0;

/// One timestep per step, and one sigma per step and the final one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SigmaTable {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f64>,
}

impl SigmaTable {
    /// For Euler, Euler ancestral, Heun and LMS.
    pub(super) fn down_to_first(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let trained = trained_sigmas(alphas);
        let mut timesteps: Vec<f64> = down_to_first(options, steps).into_iter().map(to_f32).collect();
        let mut sigmas = match options.interpolation {
            Interpolation::Linear => timesteps.iter().map(|timestep| interpolate(&trained, *timestep)).collect(),
            Interpolation::LogLinear => log_linear(&trained, steps),
        };
        if options.karras {
            sigmas = karras(options, sigmas[sigmas.len() - 1], sigmas[0], steps)?;
            timesteps = sigmas.iter().map(|sigma| to_f32(timestep_of(&trained, *sigma))).collect();
        }
        sigmas.push(final_sigma(options, trained[0]));
        let sigmas: Vec<f64> = sigmas.into_iter().map(to_f32).collect();
        if options.timestep_type == TimestepType::Continuous && options.prediction == PredictionType::Velocity {
            timesteps = sigmas[..sigmas.len() - 1].iter().map(|sigma| to_f32(0.25 * sigma.ln())).collect();
        }
        Ok(Self { timesteps, sigmas })
    }

    /// For DPM-Solver++ and UniPC.
    pub(super) fn short_of_first(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let trained = trained_sigmas(alphas);
        let mut last = final_sigma(options, trained[0]);
        let (timesteps, mut sigmas) = if options.karras {
            let sigmas = karras(options, trained[0], trained[trained.len() - 1], steps)?;
            // UniPC ends where the Karras sigmas end, DPM-Solver++ at the first trained one.
            if options.class == SchedulerClass::Unipc && options.final_sigma == FinalSigma::SigmaMin {
                last = sigmas[sigmas.len() - 1];
            }
            let timesteps = sigmas.iter().map(|sigma| karras_timestep(options, timestep_of(&trained, *sigma)));
            (timesteps.collect(), sigmas)
        } else {
            let timesteps = short_of_first(options, used_timesteps(options, alphas)?, steps);
            let sigmas = timesteps.iter().map(|timestep| interpolate(&trained, *timestep)).collect();
            (timesteps, sigmas)
        };
        sigmas.push(last);
        Ok(Self { timesteps, sigmas: sigmas.into_iter().map(to_f32).collect() })
    }

    /// Noise that the first latents are scaled to, for methods on divided latents.
    pub(super) fn init_noise_sigma(&self, spacing: TimestepSpacing) -> f64 {
        let largest = self.sigmas.iter().copied().fold(0.0, f64::max);
        match spacing {
            TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
        }
    }

    /// A step whose sigma is not below the one before it: multistep methods divide by the difference. The final sigma
    /// may repeat.
    pub(super) fn repeated(&self) -> Option<usize> {
        let steps = &self.sigmas[..self.timesteps.len().min(self.sigmas.len())];
        steps.windows(2).position(|pair| pair[1] >= pair[0])
    }
}

/// By trained timestep, ascending.
fn trained_sigmas(alphas: &[f32]) -> Vec<f64> {
    alphas.iter().map(|alpha| f64::from(((1.0 - alpha) / alpha).sqrt())).collect()
}

/// Between the two nearest trained timesteps; the ends go on for ever.
fn interpolate(trained: &[f64], timestep: f64) -> f64 {
    let last = trained.len() - 1;
    let low = (timestep.max(0.0) as usize).min(last);
    let high = (low + 1).min(last);
    let fraction = (timestep - low as f64).clamp(0.0, 1.0);
    trained[low] + (trained[high] - trained[low]) * fraction
}

/// Evenly in the logarithm from the largest to the smallest trained sigma, both included.
fn log_linear(trained: &[f64], steps: usize) -> Vec<f64> {
    let (start, end) = (trained[trained.len() - 1].ln(), trained[0].ln());
    (0..=steps).map(|index| (start + (end - start) * index as f64 / steps as f64).exp()).collect()
}

/// Equation 5 of arXiv 2206.00364. A single step takes the largest.
fn karras(options: &Options, smallest: f64, largest: f64, steps: usize) -> Result<Vec<f64>, SchedulerError> {
    let (smallest, largest) = (options.sigma_min.unwrap_or(smallest), options.sigma_max.unwrap_or(largest));
    if smallest > largest {
        return Err(invalid("sigma_min", smallest, format!("less than the largest sigma, {largest}")));
    }
    let (start, end) = (largest.powf(1.0 / KARRAS_RHO), smallest.powf(1.0 / KARRAS_RHO));
    let ramp = |index: usize| if steps == 1 { 0.0 } else { index as f64 / (steps - 1) as f64 };
    Ok((0..steps).map(|index| (start + ramp(index) * (end - start)).powf(KARRAS_RHO)).collect())
}

/// The timestep, with a fraction, whose trained sigma this is, read along the logarithm.
fn timestep_of(trained: &[f64], sigma: f64) -> f64 {
    // One trained timestep has no neighbour to read between.
    let Some(last_low) = trained.len().checked_sub(2) else { return 0.0 };
    let log = |sigma: f64| to_f32(sigma.ln());
    let log_sigma = sigma.max(1e-10).ln();
    let low = trained.partition_point(|trained| log(*trained) <= log_sigma).saturating_sub(1).min(last_low);
    let (log_low, log_high) = (log(trained[low]), log(trained[low + 1]));
    let weight = ((log_low - log_sigma) / (log_low - log_high)).clamp(0.0, 1.0);
    (1.0 - weight) * low as f64 + weight * (low + 1) as f64
}

/// diffusers conditions on whole timesteps, by rounding except for the cosine schedule of DPM-Solver++, which it cuts.
fn karras_timestep(options: &Options, timestep: f64) -> f64 {
    let cut = options.class == SchedulerClass::DpmSolver && options.betas.schedule == BetaSchedule::SquaredCosine;
    if cut { timestep.trunc() } else { timestep.round_ties_even() }
}

/// Trained timesteps whose logarithmic signal to noise ratio is not clipped.
fn used_timesteps(options: &Options, alphas: &[f32]) -> Result<usize, SchedulerError> {
    if options.class != SchedulerClass::DpmSolver {
        return Ok(alphas.len());
    }
    let log_ratio = |alpha: f32| alpha.sqrt().ln() - (1.0 - alpha).sqrt().ln();
    let clipped = alphas.iter().filter(|alpha| f64::from(log_ratio(**alpha)) < options.lambda_min_clipped).count();
    match alphas.len() - clipped {
        0 => Err(invalid("lambda_min_clipped", options.lambda_min_clipped, "low enough to leave a timestep")),
        used => Ok(used),
    }
}

fn final_sigma(options: &Options, smallest: f64) -> f64 {
    match options.final_sigma {
        FinalSigma::SigmaMin => smallest,
        FinalSigma::Zero => 0.0,
    }
}

fn to_f32(value: f64) -> f64 {
    f64::from(value as f32)
}
