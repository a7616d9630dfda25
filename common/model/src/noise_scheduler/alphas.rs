//! Alphas, accumulated: how much of the picture is left at each trained timestep.
//!
//! Computed in f32 as diffusers does, because the first ones are so near to one that its rounding shows: one minus the
//! first alpha is off by up to 4e-5 of itself.

use super::SchedulerError;
use super::kind::SchedulerClass;
use super::options::{BetaOptions, BetaSchedule, Options, invalid};

/// What classes that divide by alpha use instead of zero at the last timestep, as diffusers does.
const SMALLEST_ALPHA: f32 = 1.0 / 16_777_216.0;
/// The smallest beta that changes anything in f32; below it the first sigma would be zero.
const SMALLEST_BETA: f32 = 1e-7;
/// The cap in the name `squaredcos_cap_v2` (arXiv 2102.09672, section 3.2).
const COSINE_MAX_BETA: f64 = 0.999;

/// The product of one minus beta up to each trained timestep.
pub(super) fn accumulated_alphas(options: &Options) -> Result<Vec<f32>, SchedulerError> {
    let mut betas = betas(&options.betas, options.train_timesteps);
    if let Some(beta) = betas.iter().find(|beta| !(SMALLEST_BETA..1.0).contains(*beta)) {
        let key = if options.betas.trained.is_some() { "trained_betas" } else { "beta_start to beta_end" };
        return Err(invalid(key, beta, format!("at least {SMALLEST_BETA} and less than 1")));
    }
    if options.betas.zero_terminal_snr {
        betas = with_zero_terminal_snr(&betas);
    }
    let mut alphas = accumulate(&betas);
    if options.betas.zero_terminal_snr && options.class != SchedulerClass::Ddim {
        alphas.last_mut().into_iter().for_each(|last| *last = SMALLEST_ALPHA);
    }
    let checked = if options.betas.zero_terminal_snr { &alphas[..alphas.len() - 1] } else { &alphas[..] };
    match checked.iter().position(|alpha| !alpha.is_normal()) {
        Some(timestep) => Err(invalid(
            "beta_end",
            options.betas.end,
            format!("small enough to leave a signal at timestep {timestep}"),
        )),
        None => Ok(alphas),
    }
}

fn betas(options: &BetaOptions, timesteps: usize) -> Vec<f32> {
    if let Some(trained) = &options.trained {
        return trained.iter().map(|beta| *beta as f32).collect();
    }
    match options.schedule {
        BetaSchedule::Linear => evenly_spaced(options.start as f32, options.end as f32, timesteps),
        BetaSchedule::ScaledLinear => {
            let roots = evenly_spaced(options.start.sqrt() as f32, options.end.sqrt() as f32, timesteps);
            roots.into_iter().map(|root| root * root).collect()
        }
        BetaSchedule::SquaredCosine => squared_cosine(timesteps),
    }
}

/// From both ends towards the middle, as torch rounds it.
fn evenly_spaced(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    let value = |index: usize| match index < count / 2 {
        true => start + step * index as f32,
        false => end - step * (count - 1 - index) as f32,
    };
    (0..count).map(value).collect()
}

fn squared_cosine(timesteps: usize) -> Vec<f32> {
    let alpha = |time: f64| ((time + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    let count = timesteps as f64;
    let beta = |index: usize| {
        let ratio = alpha((index + 1) as f64 / count) / alpha(index as f64 / count);
        (1.0 - ratio).min(COSINE_MAX_BETA) as f32
    };
    (0..timesteps).map(beta).collect()
}

/// Algorithm 1 of arXiv 2305.08891: the roots of the accumulated alphas are shifted so that the last is zero, and
/// scaled so that the first stays.
fn with_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = accumulate(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let alphas: Vec<f32> = roots.iter().map(|root| ((root - last) * scale).powi(2)).collect();
    let beta = |index: usize| match index {
        0 => 1.0 - alphas[0],
        _ => 1.0 - alphas[index] / alphas[index - 1],
    };
    (0..alphas.len()).map(beta).collect()
}

/// The running product of one minus beta, carried in f64 and rounded at every timestep, as torch does.
fn accumulate(betas: &[f32]) -> Vec<f32> {
    let mut product = 1f64;
    let next = |beta: &f32| {
        product *= f64::from(1.0 - beta);
        product as f32
    };
    betas.iter().map(next).collect()
}
