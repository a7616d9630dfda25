//! What goes wrong at a worker, as it reaches the user: typed facts, with the fault's owner and a hint.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a worker could not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum WorkerFailure {
    /// The assignment contradicts itself or what this version can do: a mistake of the coordinator or version skew.
    #[error("the assignment cannot be carried out: {reason}")]
    BadAssignment {
        /// What is wrong with it.
        reason: String,
    },
    /// A layer computed a wrong shape, met an unsupported operation, or the like.
    #[error("layer {layer} failed: {reason}")]
    LayerFailed {
        /// The layer's name.
        layer: String,
        /// What the arithmetic said.
        reason: String,
    },
    /// A parameter could not be had or does not fit the configuration.
    #[error("parameter {name} cannot be used: {reason}")]
    BadWeight {
        /// The parameter's name.
        name: String,
        /// Missing, wrong shape, wrong digest.
        reason: String,
    },
    /// The components do not fit the worker's memory.
    #[error("{needed_bytes} bytes are needed and {available_bytes} are available")]
    OutOfMemory {
        /// Parameters and activations.
        needed_bytes: u64,
        /// What the worker may use.
        available_bytes: u64,
    },
    /// A component panicked; only its job is affected.
    #[error("a component panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// Another worker cannot be reached, or its link broke.
    #[error("the link to worker {peer} failed: {reason}")]
    PeerFailed {
        /// The other worker's name.
        peer: String,
        /// What the transport said.
        reason: String,
    },
    /// The request is not known or came at the wrong time.
    #[error("the request does not fit: {reason}")]
    Unexpected {
        /// What was found.
        reason: String,
    },
    /// The request took too long.
    #[error("{what} took longer than {seconds} s")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// The limit.
        seconds: u64,
    },
}

impl WorkerFailure {
    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BadAssignment { .. } | Self::Unexpected { .. } => {
                "run the same version of this software on coordinator and workers"
            }
            Self::LayerFailed { .. } => "check that the checkpoint's weights belong to its config.json",
            Self::BadWeight { .. } => "check the checkpoint's files; download or copy them again",
            Self::OutOfMemory { .. } => {
                "add workers or ask for more components, so that each holds less; or make a smaller image"
            }
            Self::Panicked { .. } => "this is a bug: please report it with the worker's log",
            Self::PeerFailed { .. } => "check that workers can reach each other's ports by UDP",
            Self::TimedOut { .. } => "check the worker's load and its network",
        }
    }
}
