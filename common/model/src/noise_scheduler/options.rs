//! A config as one class understands it: typed, with diffusers' defaults of that class, and known to be usable.

use std::ops::RangeInclusive;

use super::SchedulerError;
pub(super) use super::choices::{
    BetaSchedule, FinalSigma, Interpolation, PredictionType, SolverType, TimestepSpacing, TimestepType,
};
use super::keys::Keys;
use super::kind::SchedulerClass;

/// More training timesteps than any model has; bounds the tables that a config can make us allocate.
const MAX_TRAIN_TIMESTEPS: usize = 100_000;
/// Ends of the Karras sigmas that can be computed with in f32; Stable Video Diffusion's are 0.002 and 700.
const SIGMA_RANGE: RangeInclusive<f64> = 1e-6..=1e6;
/// Beyond third order diffusers itself falls back or becomes unstable.
const MAX_SOLVER_ORDER: usize = 3;

/// The noise that the model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BetaOptions {
    pub(super) schedule: BetaSchedule,
    pub(super) start: f64,
    pub(super) end: f64,
    /// Given one by one instead of by a schedule.
    pub(super) trained: Option<Vec<f64>>,
    /// Rescaled so that the last timestep is noise alone (arXiv 2305.08891, algorithm 1).
    pub(super) zero_terminal_snr: bool,
}

/// All options of all classes; those that a class lacks have the value that changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Options {
    pub(super) class: SchedulerClass,
    pub(super) train_timesteps: usize,
    pub(super) betas: BetaOptions,
    pub(super) prediction: PredictionType,
    pub(super) spacing: TimestepSpacing,
    pub(super) steps_offset: usize,
    /// DDIM, PNDM: the last step ends without noise, rather than at the first trained timestep.
    pub(super) set_alpha_to_one: bool,
    /// PNDM: starts by the plain linear multistep method.
    pub(super) skip_prk_steps: bool,
    /// DDIM, Heun: denoised latents are cut to plus and minus this.
    pub(super) clip_range: Option<f64>,
    pub(super) karras: bool,
    /// Ends of the Karras sigmas; those of the trained ones if not given.
    pub(super) sigma_min: Option<f64>,
    pub(super) sigma_max: Option<f64>,
    pub(super) final_sigma: FinalSigma,
    pub(super) interpolation: Interpolation,
    pub(super) timestep_type: TimestepType,
    pub(super) solver_order: usize,
    pub(super) solver_type: SolverType,
    pub(super) lower_order_final: bool,
    pub(super) euler_at_final: bool,
    /// DPM-Solver: timesteps with a logarithmic signal to noise ratio below this are left out.
    pub(super) lambda_min_clipped: f64,
    /// UniPC: steps after which the corrector is not run.
    pub(super) disable_corrector: Vec<usize>,
}

impl Options {
    /// Reads what the class has and refuses what would change the result and is not built.
    pub(super) fn read(keys: &Keys<'_>) -> Result<Self, SchedulerError> {
        refuse_unsupported(keys)?;
        let class = keys.class;
        let train_timesteps = keys.count("num_train_timesteps", 1000, MAX_TRAIN_TIMESTEPS)?;
        let options = Self {
            class,
            train_timesteps,
            betas: read_betas(keys)?,
            prediction: read_prediction(keys)?,
            spacing: read_spacing(keys)?,
            steps_offset: keys.count("steps_offset", 0, MAX_TRAIN_TIMESTEPS)?,
            set_alpha_to_one: keys.flag("set_alpha_to_one", class == SchedulerClass::Ddim)?,
            skip_prk_steps: keys.flag("skip_prk_steps", false)?,
            clip_range: read_clip_range(keys)?,
            karras: keys.flag("use_karras_sigmas", false)?,
            sigma_min: keys.optional_number("sigma_min")?,
            sigma_max: keys.optional_number("sigma_max")?,
            final_sigma: keys
                .choice("final_sigmas_type", &[("zero", FinalSigma::Zero), ("sigma_min", FinalSigma::SigmaMin)])?,
            interpolation: keys.choice(
                "interpolation_type",
                &[("linear", Interpolation::Linear), ("log_linear", Interpolation::LogLinear)],
            )?,
            timestep_type: keys.choice(
                "timestep_type",
                &[("discrete", TimestepType::Discrete), ("continuous", TimestepType::Continuous)],
            )?,
            solver_order: keys.count("solver_order", 2, MAX_SOLVER_ORDER)?,
            solver_type: read_solver_type(keys)?,
            lower_order_final: keys.flag("lower_order_final", true)?,
            euler_at_final: keys.flag("euler_at_final", false)?,
            lambda_min_clipped: keys.number("lambda_min_clipped", f64::MIN)?,
            disable_corrector: read_disabled_steps(keys)?,
        };
        options.validate()?;
        Ok(options)
    }

    /// Options that are each right but cannot be used, alone or together.
    fn validate(&self) -> Result<(), SchedulerError> {
        let at_least_one = |key, value: usize| match value {
            0 => Err(invalid(key, 0, "at least 1")),
            _ => Ok(()),
        };
        at_least_one("num_train_timesteps", self.train_timesteps)?;
        at_least_one("solver_order", self.solver_order)?;
        if self.betas.zero_terminal_snr && self.train_timesteps < 2 {
            return Err(invalid(
                "num_train_timesteps",
                self.train_timesteps,
                "at least 2 where rescale_betas_zero_snr is true",
            ));
        }
        for (key, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if let Some(sigma) = sigma.filter(|sigma| !SIGMA_RANGE.contains(sigma)) {
                let expected = format!("between {} and {}", SIGMA_RANGE.start(), SIGMA_RANGE.end());
                return Err(invalid(key, sigma, expected));
            }
        }
        if let Some(trained) = self.betas.trained.as_ref().filter(|trained| trained.len() != self.train_timesteps) {
            let expected = format!("as many numbers as num_train_timesteps, {}", self.train_timesteps);
            return Err(invalid("trained_betas", format!("{} numbers", trained.len()), expected));
        }
        // Without noise at the end its logarithm is infinite, and a step of higher order would divide by it.
        let unipc = self.class == SchedulerClass::Unipc && self.solver_order > 1;
        if unipc && !self.lower_order_final && self.final_sigma == FinalSigma::Zero {
            return Err(invalid("lower_order_final", false, "true where final_sigmas_type is zero"));
        }
        Ok(())
    }
}

pub(super) fn invalid(key: &'static str, value: impl ToString, expected: impl Into<String>) -> SchedulerError {
    SchedulerError::InvalidOption { key, value: value.to_string(), expected: expected.into() }
}

fn refuse_unsupported(keys: &Keys<'_>) -> Result<(), SchedulerError> {
    keys.refuse_flags(&[
        "thresholding",
        "use_beta_sigmas",
        "use_dynamic_shifting",
        "use_exponential_sigmas",
        "use_flow_sigmas",
        "use_lu_lambdas",
    ])?;
    keys.refuse_value("shift_terminal")?;
    keys.refuse_value("solver_p")?;
    // "deis" is what a DEIS config says; diffusers runs it as DPM-Solver++ too.
    keys.choice("algorithm_type", &[("dpmsolver++", ()), ("deis", ())])?;
    if let Some(learned) =
        keys.value("variance_type").filter(|value| value.as_str().is_some_and(|name| name.starts_with("learned")))
    {
        return Err(keys.unsupported("variance_type", learned, "null".to_owned()));
    }
    if !keys.flag("predict_x0", true)? {
        return Err(keys.unsupported("predict_x0", &false.into(), "true".to_owned()));
    }
    Ok(())
}

fn read_betas(keys: &Keys<'_>) -> Result<BetaOptions, SchedulerError> {
    // Heun alone defaults to Stable Diffusion's betas.
    let (start, end) = if keys.class == SchedulerClass::Heun { (0.000_85, 0.012) } else { (0.000_1, 0.02) };
    Ok(BetaOptions {
        schedule: keys.choice(
            "beta_schedule",
            &[
                ("linear", BetaSchedule::Linear),
                ("scaled_linear", BetaSchedule::ScaledLinear),
                ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
            ],
        )?,
        start: keys.number("beta_start", start)?,
        end: keys.number("beta_end", end)?,
        trained: keys.numbers("trained_betas")?,
        zero_terminal_snr: keys.flag("rescale_betas_zero_snr", false)?,
    })
}

fn read_prediction(keys: &Keys<'_>) -> Result<PredictionType, SchedulerError> {
    const EPSILON: (&str, PredictionType) = ("epsilon", PredictionType::Epsilon);
    const VELOCITY: (&str, PredictionType) = ("v_prediction", PredictionType::Velocity);
    const SAMPLE: (&str, PredictionType) = ("sample", PredictionType::Sample);
    match keys.class {
        SchedulerClass::EulerAncestral | SchedulerClass::Pndm => keys.choice("prediction_type", &[EPSILON, VELOCITY]),
        _ => keys.choice("prediction_type", &[EPSILON, VELOCITY, SAMPLE]),
    }
}

fn read_spacing(keys: &Keys<'_>) -> Result<TimestepSpacing, SchedulerError> {
    let default = match keys.class {
        SchedulerClass::Ddim | SchedulerClass::Pndm => TimestepSpacing::Leading,
        _ => TimestepSpacing::Linspace,
    };
    keys.choice_or(
        "timestep_spacing",
        default,
        &[
            ("leading", TimestepSpacing::Leading),
            ("linspace", TimestepSpacing::Linspace),
            ("trailing", TimestepSpacing::Trailing),
        ],
    )
}

/// On by default for DDIM alone.
fn read_clip_range(keys: &Keys<'_>) -> Result<Option<f64>, SchedulerError> {
    let range = keys.number("clip_sample_range", 1.0)?;
    if !keys.flag("clip_sample", keys.class == SchedulerClass::Ddim)? {
        return Ok(None);
    }
    if range <= 0.0 {
        return Err(invalid("clip_sample_range", range, "greater than 0"));
    }
    Ok(Some(range))
}

/// A word of one solver in the config of another means the other's usual variant, as in diffusers.
fn read_solver_type(keys: &Keys<'_>) -> Result<SolverType, SchedulerError> {
    let choices = match keys.class {
        SchedulerClass::Unipc => [
            ("bh2", SolverType::Bh2),
            ("bh1", SolverType::Bh1),
            ("midpoint", SolverType::Bh2),
            ("heun", SolverType::Bh2),
            ("logrho", SolverType::Bh2),
        ],
        _ => [
            ("midpoint", SolverType::Midpoint),
            ("heun", SolverType::Heun),
            ("logrho", SolverType::Midpoint),
            ("bh1", SolverType::Midpoint),
            ("bh2", SolverType::Midpoint),
        ],
    };
    keys.choice("solver_type", &choices)
}

fn read_disabled_steps(keys: &Keys<'_>) -> Result<Vec<usize>, SchedulerError> {
    let steps = keys.numbers("disable_corrector")?.unwrap_or_default();
    let whole = |step: &f64| *step >= 0.0 && step.fract() == 0.0;
    match steps.iter().find(|step| !whole(step)) {
        Some(step) => Err(invalid("disable_corrector", step, "a list of steps, counted from 0")),
        None => Ok(steps.into_iter().map(|step| step as usize).collect()),
    }
}
