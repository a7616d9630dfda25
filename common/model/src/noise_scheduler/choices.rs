//! The choices that a config makes by a word.

/// What the denoiser's output stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PredictionType {
    /// The noise in the latents.
    Epsilon,
    /// The denoised latents.
    Sample,
    /// Velocity (arXiv 2202.00512): between the two.
    Velocity,
}

/// How the steps are laid over the trained timesteps (arXiv 2305.08891, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimestepSpacing {
    /// Multiples of a whole number from zero, plus an offset.
    Leading,
    /// Both ends and evenly between.
    Linspace,
    /// Multiples from the end.
    Trailing,
}

/// The noise level after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinalSigma {
    SigmaMin,
    Zero,
}

/// How beta grows over the trained timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BetaSchedule {
    Linear,
    ScaledLinear,
    SquaredCosine,
}

/// How Euler's method places its sigmas between the trained ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interpolation {
    Linear,
    LogLinear,
}

/// What the denoiser is conditioned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimestepType {
    /// A quarter of the logarithm of sigma, as in EDM; only with velocity prediction.
    Continuous,
    /// The trained timestep.
    Discrete,
}

/// Variant of a multistep solver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SolverType {
    Bh1,
    Bh2,
    Heun,
    Midpoint,
}
