//! What can be wrong with a noise scheduler's config, with a choice of steps, or with a saved state.

use thiserror::Error;

use super::SchedulerKind;

/// Why a noise scheduler cannot be made or taken up again. All but [`SchedulerError::StateMismatch`] are the
/// operator's to mend.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SchedulerError {
    /// The config is no JSON object.
    #[error(
        "scheduler_config.json cannot be read: {reason}\n\
         hint: it must be one JSON object as diffusers writes it; fetch the file again"
    )]
    InvalidJson {
        /// What the parser says, with its place.
        reason: String,
    },
    /// The config does not say which class it is for.
    #[error(
        "scheduler_config.json has no _class_name\n\
         hint: add it, such as \"_class_name\": \"DDIMScheduler\", or fetch the file again"
    )]
    ClassMissing,
    /// The config is for a class that is not built.
    #[error(
        "noise scheduler {class} is not supported\n\
         hint: choose one with --scheduler; there are {}",
        SchedulerKind::names()
    )]
    UnsupportedClass {
        /// The class found.
        class: String,
    },
    /// The config is for another kind of model, so that no supported noise scheduler can use it.
    #[error(
        "noise scheduler {class} is not supported, and its config has no betas that another one could use\n\
         hint: use a checkpoint whose noise scheduler is one of diffusers' discrete ones, such as DDIMScheduler"
    )]
    IncompatibleClass {
        /// The class found.
        class: String,
    },
    /// A name that no noise scheduler has.
    #[error(
        "there is no noise scheduler {name:?}\n\
         hint: there are {}",
        SchedulerKind::names()
    )]
    UnknownName {
        /// The name given.
        name: String,
    },
    /// A key of the config has a value of another type.
    #[error(
        "{key} of the noise scheduler is {found} instead of {expected}\n\
         hint: correct it in scheduler_config.json"
    )]
    WrongType {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
        /// The value found, as JSON.
        found: String,
    },
    /// A key of the config has a value that diffusers knows and that is not built.
    #[error(
        "{key} = {value} of {class} is not supported\n\
         hint: supported is {supported}; or choose another noise scheduler with --scheduler"
    )]
    UnsupportedOption {
        /// diffusers' name of the class.
        class: &'static str,
        /// The key.
        key: &'static str,
        /// The value found, as JSON.
        value: String,
        /// What it may be.
        supported: String,
    },
    /// A key of the config has a value that cannot be right.
    #[error(
        "{key} = {value} of the noise scheduler cannot be used\n\
         hint: it must be {expected}"
    )]
    InvalidOption {
        /// The key.
        key: &'static str,
        /// The value found.
        value: String,
        /// What it must be.
        expected: String,
    },
    /// Zero steps.
    #[error(
        "a picture cannot be made in 0 steps\n\
         hint: ask for at least 1, usually 20 to 50"
    )]
    NoSteps,
    /// More steps than the model was trained with.
    #[error(
        "{steps} steps are more than the model's {train_timesteps} timesteps\n\
         hint: ask for at most {train_timesteps}"
    )]
    TooManySteps {
        /// Steps asked for.
        steps: usize,
        /// `num_train_timesteps`.
        train_timesteps: usize,
    },
    /// Fewer steps than the method needs to start.
    #[error(
        "{steps} steps are too few for pndm with skip_prk_steps = false\n\
         hint: ask for at least {minimum}, or set skip_prk_steps to true"
    )]
    TooFewSteps {
        /// Steps asked for.
        steps: usize,
        /// The fewest that work.
        minimum: usize,
    },
    /// A step falls on a timestep that the model was not trained with.
    #[error(
        "timestep {timestep} lies outside of the model's 0 to {last}\n\
         hint: ask for fewer than {steps} steps, or lower steps_offset"
    )]
    TimestepOutOfRange {
        /// The timestep.
        timestep: i64,
        /// The last one that there is.
        last: usize,
        /// Steps asked for.
        steps: usize,
    },
    /// Two steps of a multistep method fall on one noise level, between which there is no slope.
    #[error("with {steps} steps, {kind} has the same noise level at steps {step} and {}\n\
         hint: ask for fewer steps, or choose ddim or euler with --scheduler", step + 1)]
    RepeatedNoiseLevel {
        /// The noise scheduler.
        kind: SchedulerKind,
        /// Steps asked for.
        steps: usize,
        /// The first of the two.
        step: usize,
    },
    /// A saved state belongs to another job.
    #[error(
        "the saved noise scheduler's {what} is {found} instead of {expected}\n\
         hint: the job's settings changed since it was saved; start it anew"
    )]
    StateMismatch {
        /// What differs.
        what: &'static str,
        /// What this noise scheduler has.
        expected: String,
        /// What was saved.
        found: String,
    },
}
