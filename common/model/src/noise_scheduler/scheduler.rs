//! [`NoiseScheduler`]: the noise scheduler of one job, whatever its method.

use super::alphas::accumulated_alphas;
use super::ddim::Ddim;
use super::dpm_solver::DpmSolver;
use super::euler::{Euler, EulerAncestral};
use super::heun::Heun;
use super::kind::SchedulerClass;
use super::lms::Lms;
use super::options::Options;
use super::pndm::Pndm;
use super::sigmas::SigmaTable;
use super::state::{Memory, Remembered};
use super::unipc::Unipc;
use super::{SchedulerConfig, SchedulerError, SchedulerKind, SchedulerState};

/// A method with its tables. What a later step depends on is in [`Memory`], never here.
pub(super) trait Solver: Send + Sync {
    /// Moves the latents in place from before `step` to after it.
    fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32], memory: &mut Memory);

    /// What must be remembered before `step`, up to the number of evaluations.
    fn remembered(&self, step: usize) -> Remembered;

    /// Does what can be done for a step before its noise prediction is there.
    fn prepare(&mut self, _step: usize, _elements: usize) {}
}

/// Turns noise predictions into latents, one step after the other.
pub struct NoiseScheduler {
    timesteps: Vec<f64>,
    sigmas: Option<Vec<f64>>,
    init_noise_sigma: f64,
    /// By step; empty if the denoiser gets the latents as they are.
    input_scales: Vec<f64>,
    solver: Box<dyn Solver>,
    state: SchedulerState,
}

impl NoiseScheduler {
    /// For a picture in `steps` steps. The seed is that of a stochastic method's noise; the others ignore it.
    pub fn new(config: &SchedulerConfig, steps: usize, seed: u64) -> Result<Self, SchedulerError> {
        let options = config.options()?;
        let train_timesteps = options.train_timesteps;
        if steps == 0 {
            return Err(SchedulerError::NoSteps);
        }
        if steps > train_timesteps {
            return Err(SchedulerError::TooManySteps { steps, train_timesteps });
        }
        let alphas = accumulated_alphas(&options)?;
        match options.class {
            SchedulerClass::Ddim | SchedulerClass::Pndm => Self::on_timesteps(&options, &alphas, steps),
            SchedulerClass::DpmSolver | SchedulerClass::Unipc => Self::on_logarithmic_sigmas(&options, &alphas, steps),
            _ => Self::on_divided_latents(&options, &alphas, steps, seed),
        }
    }

    /// How often the denoiser is evaluated: `2 * steps - 1` times for Heun; `steps + 1` times for PNDM, which evaluates
    /// its second step twice if there is one (`steps + 9` times with a pseudo Runge-Kutta start); else `steps` times.
    pub fn evaluations(&self) -> usize {
        self.timesteps.len()
    }

    /// What the denoiser is conditioned on, one per evaluation.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// The noise levels before each evaluation and after the last, for methods that count in them.
    pub fn sigmas(&self) -> Option<&[f64]> {
        self.sigmas.as_deref()
    }

    /// What standard normal noise is multiplied by to make the first latents.
    pub fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    /// What the denoiser is given at a step.
    ///
    /// # Shapes
    /// - `latents`: `[batch, channels, height, width]`, row-major
    /// - `scaled`: overwritten with as many elements
    ///
    /// # Panics
    /// If `step` is not less than [`NoiseScheduler::evaluations`].
    pub fn scale_model_input(&self, step: usize, latents: &[f32], scaled: &mut Vec<f32>) {
        scaled.clear();
        if self.input_scales.is_empty() {
            scaled.extend_from_slice(latents);
        } else {
            let scale = self.input_scales[step];
            scaled.extend(latents.iter().map(|value| (f64::from(*value) * scale) as f32));
        }
    }

    /// Moves the latents in place. Steps are made in order from [`SchedulerState::next_step`]; in debug builds any
    /// other is refused, in release builds it gives latents of no meaning.
    ///
    /// # Shapes
    /// - `noise_prediction`: after guidance, `[batch, channels, height, width]`, row-major
    /// - `latents`: the same; the same number of elements at every step
    ///
    /// # Panics
    /// If `step` is not less than [`NoiseScheduler::evaluations`], or the lengths differ.
    pub fn step(&mut self, step: usize, noise_prediction: &[f32], latents: &mut [f32]) {
        assert_eq!(noise_prediction.len(), latents.len(), "a noise prediction is shaped like the latents");
        debug_assert_eq!(step, self.state.next_step, "steps are made in order");
        self.solver.step(step, noise_prediction, latents, &mut self.state.memory);
        self.state.next_step = step + 1;
    }

    /// Does what the next step needs besides its noise prediction, while that is being computed: draws a stochastic
    /// method's noise, which takes longer than the step itself. Changes no result and may be left out.
    ///
    /// # Shapes
    /// - `elements`: of the latents
    pub fn prepare(&mut self, elements: usize) {
        if self.state.next_step < self.evaluations() {
            self.solver.prepare(self.state.next_step, elements);
        }
    }

    /// The step that has not been made yet; the number of evaluations at the end.
    pub fn next_step(&self) -> usize {
        self.state.next_step
    }

    /// Everything that is needed to go on from here, besides the latents and the config.
    pub fn state(&self) -> SchedulerState {
        self.state.clone()
    }

    /// Goes on where `state` was saved, by a noise scheduler of the same config, steps and seed.
    pub fn restore(&mut self, state: SchedulerState) -> Result<(), SchedulerError> {
        if state.next_step > self.evaluations() {
            return Err(SchedulerError::StateMismatch {
                what: "next step",
                expected: format!("at most {}", self.evaluations()),
                found: state.next_step.to_string(),
            });
        }
        state.check(&self.state, self.solver.remembered(state.next_step))?;
        self.state = state;
        Ok(())
    }

    /// Methods that look alphas up by timestep.
    fn on_timesteps(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let (timesteps, solver): (_, Box<dyn Solver>) = match options.class {
            SchedulerClass::Pndm => {
                let solver = Pndm::new(options, alphas, steps)?;
                (solver.timesteps(), Box::new(solver))
            }
            _ => {
                let solver = Ddim::new(options, alphas, steps)?;
                (solver.timesteps(), Box::new(solver))
            }
        };
        let kind = options.class.kind(options.karras);
        Ok(Self::assemble(kind, timesteps, solver))
    }

    /// Methods that are exact in the linear part and count in the logarithm of sigma.
    fn on_logarithmic_sigmas(options: &Options, alphas: &[f32], steps: usize) -> Result<Self, SchedulerError> {
        let table = SigmaTable::short_of_first(options, alphas, steps)?;
        let kind = options.class.kind(options.karras);
        refuse_repeated(&table, kind, steps)?;
        let sigmas = table.sigmas.clone();
        let solver: Box<dyn Solver> = match options.class {
            SchedulerClass::Unipc => Box::new(Unipc::new(options, table.sigmas)),
            _ => Box::new(DpmSolver::new(options, table.sigmas)),
        };
        let mut scheduler = Self::assemble(kind, table.timesteps, solver);
        scheduler.sigmas = Some(sigmas);
        Ok(scheduler)
    }

    /// Methods of Karras et al., whose latents are divided by their signal.
    fn on_divided_latents(options: &Options, alphas: &[f32], steps: usize, seed: u64) -> Result<Self, SchedulerError> {
        let mut table = SigmaTable::down_to_first(options, alphas, steps)?;
        let kind = options.class.kind(options.karras);
        let solver: Box<dyn Solver> = match options.class {
            SchedulerClass::EulerAncestral => Box::new(EulerAncestral::new(options, table.sigmas.clone(), seed)),
            SchedulerClass::Heun => {
                table = Heun::twice(&table);
                Box::new(Heun::new(options, table.sigmas.clone()))
            }
            SchedulerClass::Lms => {
                refuse_repeated(&table, kind, steps)?;
                Box::new(Lms::new(options, table.sigmas.clone()))
            }
            _ => Box::new(Euler::new(options, table.sigmas.clone())),
        };
        let init_noise_sigma = table.init_noise_sigma(options.spacing);
        let mut scheduler = Self::assemble(kind, table.timesteps, solver);
        scheduler.init_noise_sigma = init_noise_sigma;
        scheduler.input_scales = table.sigmas.iter().map(|sigma| 1.0 / (sigma * sigma + 1.0).sqrt()).collect();
        scheduler.sigmas = Some(table.sigmas);
        Ok(scheduler)
    }

    fn assemble(kind: SchedulerKind, timesteps: Vec<f64>, solver: Box<dyn Solver>) -> Self {
        let state = SchedulerState::new(kind, timesteps.len());
        Self { timesteps, sigmas: None, init_noise_sigma: 1.0, input_scales: Vec::new(), solver, state }
    }
}

fn refuse_repeated(table: &SigmaTable, kind: SchedulerKind, steps: usize) -> Result<(), SchedulerError> {
    match table.repeated() {
        Some(step) => Err(SchedulerError::RepeatedNoiseLevel { kind, steps, step }),
        None => Ok(()),
    }
}
