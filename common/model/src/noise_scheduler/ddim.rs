//! DDIM without noise of its own: equation 12 of arXiv 2010.02502 with sigma zero.

use super::SchedulerError;
use super::linear::{Mix, combine};
use super::options::{Options, PredictionType, invalid};
use super::prediction::{clipped, denoised, noise};
use super::scheduler::Solver;
use super::state::{Memory, Remembered};
use super::timesteps::down_to_first;

/// Alphas by timestep, and the one after the last step.
pub(super) struct TrainedAlphas<'a> {
    alphas: &'a [f32],
    final_alpha: f64,
    steps: usize,
}

impl<'a> TrainedAlphas<'a> {
    pub(super) fn new(options: &Options, alphas: &'a [f32], steps: usize) -> Self {
        let final_alpha = if options.set_alpha_to_one { 1.0 } else { f64::from(alphas[0]) };
        Self { alphas, final_alpha, steps }
    }

    /// The alpha of a timestep; timesteps before the first trained one have the final alpha.
    pub(super) fn at(&self, timestep: i64) -> Result<f64, SchedulerError> {
        let last = self.alphas.len() - 1;
        match usize::try_from(timestep) {
            Err(_) => Ok(self.final_alpha),
            Ok(index) if index <= last => Ok(f64::from(self.alphas[index])),
            Ok(_) => Err(SchedulerError::TimestepOutOfRange { timestep, last, steps: self.steps }),
        }
    }
}

/// One step: both parts of the latents as mixes, and what each is multiplied by afterwards.
struct DdimStep {
    timestep: i64,
    denoised: Mix,
    noise: Mix,
    next_alpha: f64,
}

/// DDIM with its tables.
pub(super) struct Ddim {
    steps: Vec<DdimStep>,
    clip_range: Option<f64>,
}

impl Ddim {
    pub(super) fn new(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let trained = TrainedAlphas::new(options, alphas, steps);
        let stride = (options.train_timesteps / steps) as i64;
        let timesteps = down_to_first(options, steps).into_iter().map(|timestep| timestep.round_ties_even() as i64);
        let step = |timestep: i64| {
            let alpha = trained.at(timestep)?;
            if alpha == 0.0 && options.prediction == PredictionType::Epsilon {
                // Latents without any picture in them: it cannot be found by taking the noise away.
                return Err(invalid(
                    "prediction_type",
                    "epsilon",
                    "v_prediction or sample where rescale_betas_zero_snr is true",
                ));
            }
            let (signal, sigma) = (alpha.sqrt(), (1.0 - alpha).sqrt());
            Ok(DdimStep {
                timestep,
                denoised: denoised(options.prediction, signal, sigma),
                noise: noise(options.prediction, signal, sigma),
                next_alpha: trained.at(timestep - stride)?,
            })
        };
        let steps = timesteps.map(step).collect::<Result<_, _>>()?;
        Ok(Self { steps, clip_range: options.clip_range })
    }

    pub(super) fn timesteps(&self) -> Vec<f64> {
        self.steps.iter().map(|step| step.timestep as f64).collect()
    }
}

impl Solver for Ddim {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], _memory: &mut Memory) {
        let DdimStep { denoised, noise, next_alpha, .. } = &self.steps[step];
        let (signal, sigma) = (next_alpha.sqrt(), (1.0 - next_alpha).sqrt());
        if let Some(range) = self.clip_range {
            let picture = clipped(*denoised, latents, noise_prediction, range);
            combine(
                latents,
                sigma * noise.latents,
                &[(signal, &picture), (sigma * noise.prediction, noise_prediction)],
            );
        } else {
            let own = signal * denoised.latents + sigma * noise.latents;
            let weight = signal * denoised.prediction + sigma * noise.prediction;
            combine(latents, own, &[(weight, noise_prediction)]);
        }
    }

    fn remembered(&self, _step: usize) -> Remembered {
        Remembered::default()
    }
}
