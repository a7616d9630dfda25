//! PNDM: a linear multistep method on noise predictions, with DDIM's step as its transfer (arXiv 2202.09778).
//!
//! It starts either plainly, as Stable Diffusion does (`skip_prk_steps`): the second timestep is evaluated twice, once
//! for a trial of the first step and once after it was made; or by three steps of a pseudo Runge-Kutta method with four
//! evaluations each (equation 13 there).
//!
//! ```text
//! skip_prk_steps    t0  t1  t1  t2  t3 ...       first step made again with the mean of the predictions at both ends
//! else              four evaluations each for t0, t1, t2, then one per step
//! ```

use super::SchedulerError;
use super::ddim::TrainedAlphas;
use super::linear::{Mix, combine};
use super::options::{Options, PredictionType};
use super::scheduler::Solver;
use super::state::{Memory, Remembered};
use super::timesteps::down_to_first;

/// Noise predictions that a step uses.
const ORDER: usize = 4;
/// Adams and Bashforth's weights of the noise predictions, the newest first, by how many there are (equation 12 and its
/// start).
const WEIGHTS: [&[f64]; ORDER] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];
/// Evaluations of the pseudo Runge-Kutta start: four for each of the first three steps.
const PRK_EVALUATIONS: usize = 12;
/// Weights of a pseudo Runge-Kutta step's four noise predictions.
const PRK_WEIGHTS: [f64; 4] = [1.0 / 6.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 6.0];

/// What the mean noise prediction of an evaluation does to the latents it starts from.
struct Evaluation {
    timestep: i64,
    transfer: Mix,
}

/// The method with its tables.
pub(super) struct Pndm {
    /// Evaluations that belong to the pseudo Runge-Kutta start.
    prk: usize,
    evaluations: Vec<Evaluation>,
}

impl Pndm {
    pub(super) fn new(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let trained = TrainedAlphas::new(options, alphas, steps);
        let points = down_to_first(options, steps).into_iter().map(|timestep| timestep.round_ties_even() as i64);
        let points: Vec<i64> = points.collect();
        let stride = (options.train_timesteps / steps) as i64;
        let ways = if options.skip_prk_steps { plain_start(&points, stride) } else { prk_start(&points, stride)? };
        let evaluation = |(timestep, from, to): (i64, i64, i64)| {
            let transfer = transfer(options.prediction, trained.at(from)?, trained.at(to)?);
            Ok(Evaluation { timestep, transfer })
        };
        let evaluations = ways.into_iter().map(evaluation).collect::<Result<_, _>>()?;
        Ok(Self { prk: if options.skip_prk_steps { 0 } else { PRK_EVALUATIONS }, evaluations })
    }

    pub(super) fn timesteps(&self) -> Vec<f64> {
        self.evaluations.iter().map(|evaluation| evaluation.timestep as f64).collect()
    }

    /// Adds the noise prediction to the step's sum; its last evaluation makes the step, the others a trial from the
    /// same latents.
    fn prk_step(&self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let transfer = self.evaluations[step].transfer;
        let phase = step % 4;
        if phase == 0 {
            memory.push(ORDER, Mix::new(0.0, 1.0), latents, noise_prediction);
            memory.set_anchor(latents);
            memory.partial.clear();
            memory.partial.resize(latents.len(), 0.0);
        }
        combine(&mut memory.partial, 1.0, &[(PRK_WEIGHTS[phase], noise_prediction)]);
        let prediction = if phase == 3 { memory.partial.as_slice() } else { noise_prediction };
        combine(latents, 0.0, &[(transfer.latents, &memory.anchor), (transfer.prediction, prediction)]);
        if phase == 3 {
            memory.anchor.clear();
            memory.partial.clear();
        }
    }
}

impl Solver for Pndm {
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory) {
        let transfer = self.evaluations[step].transfer;
        if step < self.prk {
            return self.prk_step(step, noise_prediction, latents, memory);
        }
        if self.prk == 0 && step == 1 {
            let half = transfer.prediction / 2.0;
            let terms =
                [(transfer.latents, memory.anchor.as_slice()), (half, noise_prediction), (half, &memory.history[0])];
            combine(latents, 0.0, &terms);
            return memory.anchor.clear();
        }
        if self.prk == 0 && step == 0 {
            memory.set_anchor(latents);
        }
        memory.push(ORDER, Mix::new(0.0, 1.0), latents, noise_prediction);
        let weights = WEIGHTS[memory.history.len() - 1].iter().map(|weight| weight * transfer.prediction);
        let terms: Vec<(f64, &[f32])> = weights.zip(memory.history.iter().map(Vec::as_slice)).collect();
        combine(latents, transfer.latents, &terms);
    }

    fn remembered(&self, step: usize) -> Remembered {
        if self.prk == 0 {
            let history = if step > 1 { step - 1 } else { step };
            return Remembered { history: history.min(ORDER), anchor: step == 1, partial: false };
        }
        if step <= self.prk {
            let inside = !step.is_multiple_of(4);
            return Remembered { history: step.div_ceil(4), anchor: inside, partial: inside };
        }
        Remembered { history: (step - self.prk + 3).min(ORDER), anchor: false, partial: false }
    }
}

/// By evaluation: the timestep, and those that the step leads from and to. `points` are the steps' timesteps, latest
/// first.
fn plain_start(points: &[i64], stride: i64) -> Vec<(i64, i64, i64)> {
    let mut ways: Vec<(i64, i64, i64)> = points.iter().map(|point| (*point, *point, point - stride)).collect();
    if let Some(second) = points.get(1) {
        ways.insert(1, (*second, second + stride, *second));
    }
    ways
}

/// The same with the pseudo Runge-Kutta start: in each of its steps one evaluation at the step's own timestep, two half
/// way and one at the next step's.
fn prk_start(points: &[i64], stride: i64) -> Result<Vec<(i64, i64, i64)>, SchedulerError> {
    const STEPS: usize = PRK_EVALUATIONS / 4;
    let half = stride / 2;
    let Some(start) = points.get(..=STEPS) else {
        return Err(SchedulerError::TooFewSteps { steps: points.len(), minimum: STEPS + 1 });
    };
    let step = |pair: &[i64]| {
        let (from, next) = (pair[0], pair[1]);
        [(from, from, from - half), (next + half, from, next + half), (next + half, from, next), (next, from, next)]
    };
    let plain = points[STEPS..].iter().map(|point| (*point, *point, point - stride));
    Ok(start.windows(2).flat_map(step).chain(plain).collect())
}

/// Equation 11 of arXiv 2202.09778: DDIM's step from one alpha to another, in a form that does not divide by their
/// difference. For a velocity prediction the noise is first read off the latents that the step starts from.
fn transfer(prediction: PredictionType, from: f64, to: f64) -> Mix {
    let denominator = from * (1.0 - to).sqrt() + (from * (1.0 - from) * to).sqrt();
    let (latents, noise) = ((to / from).sqrt(), -(to - from) / denominator);
    match prediction {
        PredictionType::Velocity => Mix::new(latents + noise * (1.0 - from).sqrt(), noise * from.sqrt()),
        _ => Mix::new(latents, noise),
    }
}
