//! Why a checkpoint or a request for it cannot be used. All of these are the operator's to mend.

use asyncdiff_model::checkpoint::{CheckpointError, WeightsError};
use asyncdiff_model::noise_scheduler::SchedulerError;
use asyncdiff_model::tokenizer::TokenizerError;
use asyncdiff_model::{ConfigError, ModelError};
use thiserror::Error;

/// Why a checkpoint, or a request for something that is made with it, cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The denoiser reads conditions that are not made from a prompt here.
    #[error(
        "unet/config.json: {key} is {found}: this denoiser reads more than one encoded prompt, and pictures of such checkpoints (Stable Diffusion XL) are not supported\nhint: take a checkpoint of Stable Diffusion 1.x or 2.x"
    )]
    AddedConditions {
        /// The key that says so.
        key: &'static str,
        /// Its value.
        found: &'static str,
    },
    /// A file of the checkpoint could not be had.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor that was given as a condition does not fit.
    #[error(
        "condition {name} has shape {found:?}, and {expected} is needed\nhint: with guidance the unconditional rows come before the conditional ones"
    )]
    ConditionShape {
        /// The condition.
        name: String,
        /// What is needed.
        expected: String,
        /// What was given.
        found: Vec<u32>,
    },
    /// A configuration says something unsupported.
    #[error(transparent)]
    Config(ConfigError),
    /// The initial latents have another number of elements.
    #[error(
        "{found} elements were given as latents, and {expected} are needed\nhint: latents are [1, channels, height, width] of the requested size"
    )]
    LatentsLength {
        /// Elements needed.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A condition that the denoiser reads was not given.
    #[error("the denoiser reads the condition {name}, and none was given\nhint: give it as a tensor")]
    MissingCondition {
        /// The argument's name in diffusers.
        name: String,
    },
    /// The denoiser or another part could not be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A number that is none, or is infinite.
    #[error("the guidance scale is {found}\nhint: use a number such as 7.5; 1 turns guidance off")]
    GuidanceScale {
        /// What was given.
        found: f64,
    },
    /// A type that no worker computes in.
    #[error(
        "f16 is for GPUs, and no worker has one\nhint: use --dtype bf16, f32 or auto, or let a worker with a GPU join"
    )]
    NoHalfPrecision,
    /// The embedded model was asked for in a build without it.
    #[cfg(not(feature = "demo-model"))]
    #[error(
        "this build has no embedded model\nhint: name a checkpoint with --model, or build with the feature demo-model"
    )]
    NoDemoModel,
    /// A prompt was given to a denoiser alone.
    #[error("this model has no text encoder, so it cannot be given a prompt\nhint: use a complete checkpoint")]
    NoTextEncoder,
    /// A picture was asked of a denoiser alone.
    #[error("this model has no VAE, so it cannot make a picture\nhint: use a complete checkpoint, or ask for latents")]
    NoVae,
    /// Two parts of the checkpoint do not fit each other.
    #[error(
        "the {what} is {found}, and the denoiser needs {expected}\nhint: unet, text_encoder and vae must belong to one checkpoint"
    )]
    PartsDisagree {
        /// What does not fit.
        what: &'static str,
        /// What was found.
        found: u32,
        /// What the denoiser needs.
        expected: u32,
    },
    /// The noise scheduler cannot be made as asked for.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// A size that the model cannot make.
    #[error(
        "{width}x{height} pixels cannot be made: both must be multiples of {multiple}\nhint: the nearest sizes are {nearest}"
    )]
    Size {
        /// Width that was asked for.
        width: u32,
        /// Height that was asked for.
        height: u32,
        /// What both must be multiples of.
        multiple: u32,
        /// Sizes that can be made, such as `96x96 or 104x104`.
        nearest: String,
    },
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A digest that no entry of this store named.
    #[error(
        "no parameter of this model has the digest that was asked for\nhint: run the same version of this software on coordinator and workers"
    )]
    UnknownDigest,
    /// Parameters could not be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
