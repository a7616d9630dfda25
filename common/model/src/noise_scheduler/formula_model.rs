//! A run of a noise scheduler on a denoiser made of a formula, as the golden data of `tests/golden/parts` defines it.
//!
//! One implementation for the tests and for the command that checks such data.

use crate::formula::input;

use super::{NoiseScheduler, SchedulerConfig, SchedulerError};

/// The latents of the golden runs.
const LATENTS_SHAPE: [usize; 4] = [1, 4, 4, 4];
/// Runs of more steps record every seventh evaluation only.
const FULLY_RECORDED_STEPS: usize = 20;
const RECORDED_STRIDE: usize = 7;

/// What a run on the formula's denoiser gives.
#[derive(Clone, Debug, PartialEq)]
pub struct FormulaRun {
    /// One per evaluation.
    pub timesteps: Vec<f64>,
    /// As [`NoiseScheduler::sigmas`].
    pub sigmas: Option<Vec<f64>>,
    /// After each evaluation, `[1, 4, 4, 4]` each.
    pub latents: Vec<Vec<f32>>,
}

/// Runs the noise scheduler on a denoiser that answers the scaled latents `x` at timestep `t` with `0.6 x + 0.2 sin(3
/// x) + 0.05 cos(t / 50)`, from the formula's `scheduler_latents`. The seed is that of the golden data.
pub fn run_formula_model(config: &SchedulerConfig, steps: usize, seed: u64) -> Result<FormulaRun, SchedulerError> {
    let mut scheduler = NoiseScheduler::new(config, steps, seed)?;
    let timesteps = scheduler.timesteps().to_vec();
    let init_noise_sigma = scheduler.init_noise_sigma() as f32;
    let mut latents = input("scheduler_latents", &LATENTS_SHAPE, seed);
    latents.iter_mut().for_each(|value| *value *= init_noise_sigma);
    let mut scaled = Vec::new();
    let mut recorded = Vec::with_capacity(timesteps.len());
    for (step, timestep) in timesteps.iter().enumerate() {
        scheduler.scale_model_input(step, &latents, &mut scaled);
        let offset = (0.05 * (timestep / 50.0).cos()) as f32;
        let noise_prediction: Vec<f32> = scaled.iter().map(|x| 0.6 * x + 0.2 * (3.0 * x).sin() + offset).collect();
        scheduler.step(step, &noise_prediction, &mut latents);
        recorded.push(latents.clone());
    }
    Ok(FormulaRun { timesteps, sigmas: scheduler.sigmas().map(<[f64]>::to_vec), latents: recorded })
}

/// After which evaluations the golden data holds the latents: after all of a short run, after every seventh of a long
/// one and once more after its last.
pub fn recorded_evaluations(steps: usize, evaluations: usize) -> Vec<usize> {
    if steps <= FULLY_RECORDED_STEPS {
        return (0..evaluations).collect();
    }
    (0..evaluations).step_by(RECORDED_STRIDE).chain(evaluations.checked_sub(1)).collect()
}
