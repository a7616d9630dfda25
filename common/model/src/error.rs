//! What can go wrong in model code: errors of configurations, of weights, of tensors.

use asyncdiff_plan::{LayerId, ProgramError};
use thiserror::Error;

use crate::checkpoint::WeightsError;
use crate::kernels::CudaError;

/// Why a model could not be built or computed.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The checkpoint's configuration asks for something that is not supported, or is no configuration. The operator's fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A GPU cannot be used, or failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// An evaluation was started without a condition that the denoiser reads.
    #[error("the denoiser reads the condition {name}, and none was given")]
    MissingCondition {
        /// The argument's name in diffusers.
        name: String,
    },
    /// The operating system gave no memory. The hardware's limit.
    #[error("{bytes} bytes of memory were refused: {reason}\nhint: give this worker fewer layers, or more memory")]
    NoMemory {
        /// How much was asked for.
        bytes: u64,
        /// What the operating system said.
        reason: String,
    },
    /// A component was asked for a layer that it does not have. A bug of the caller.
    #[error("layer {layer} is not in this component")]
    NoSuchLayer {
        /// The layer.
        layer: LayerId,
    },
    /// A layer was given too many or too few operands. A bug of the caller.
    #[error("layer {layer} reads {expected} operands, found {found}")]
    OperandCount {
        /// The layer's name.
        layer: String,
        /// How many it reads.
        expected: usize,
        /// How many were given.
        found: usize,
    },
    /// A family's builder made a list of layers that is no program. A bug of this crate.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// A job asks for a size that no program can be built for. The operator's fault.
    #[error("the {what} is {found}, and 1 to {max} is supported\nhint: choose another size")]
    SizeOutOfRange {
        /// What has the size.
        what: &'static str,
        /// What was asked for.
        found: u32,
        /// The largest that is supported.
        max: u32,
    },
    /// A tensor operation failed: not enough memory, or a bug of this crate.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// A tensor that was given has a shape that the layer cannot take.
    #[error("layer {layer} reads {operand} of shape {expected}, found {found:?}")]
    ShapeMismatch {
        /// The layer's name.
        layer: String,
        /// Which of its operands.
        operand: String,
        /// The shape that it takes, axes by name where they are free, such as `[batch, 4, height, width]`.
        expected: String,
        /// The shape that was given.
        found: Vec<usize>,
    },
    /// A token id that the text encoder does not know: tokenizer and text encoder are of different checkpoints.
    #[error(
        "token {token} is not among the text encoder's {vocabulary}\nhint: tokenizer and text encoder must belong to one checkpoint"
    )]
    UnknownToken {
        /// The id.
        token: u32,
        /// How many ids there are.
        vocabulary: usize,
    },
    /// A weight is missing, damaged or of another shape than the configuration says. The operator's fault.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// A configuration file that says something unsupported, or says it wrongly.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}: {key} is {found}, but {expected}\nhint: {hint}", hint = HINT)]
pub struct ConfigError {
    /// The file inside the checkpoint, such as `unet/config.json`.
    pub file: String,
    /// The key, `_class_name` for the class, or `(file)` where the text is no JSON object at all.
    pub key: String,
    /// What stands there.
    pub found: String,
    /// What would be accepted, as a sentence's end: `the supported values are …`.
    pub expected: String,
}

const HINT: &str = "take a checkpoint in the diffusers layout of a supported family (Stable Diffusion 1.x or 2.x)";

impl ConfigError {
    /// An error about `key` of `file`.
    pub fn new(
        file: impl Into<String>,
        key: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self { file: file.into(), key: key.into(), found: found.to_string(), expected: expected.into() }
    }

    /// The error for text that does not parse as the configuration that `file` should hold.
    #[must_use]
    pub fn unreadable(file: &str, error: &serde_json::Error) -> Self {
        Self::new(file, "(file)", format!("not readable: {error}"), "a JSON object with this class's keys is needed")
    }
}
