//! Why a worker ends, and with which exit code.

use asyncdiff_common::exit::ExitCode;
use asyncdiff_model::kernels::CudaError;
use thiserror::Error;

/// Why a worker ended other than on request.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// A bug of this program.
    #[error("the worker's {part} ended unexpectedly: {reason}\nhint: this is a bug: please report it with this log")]
    Bug {
        /// Which part.
        part: &'static str,
        /// What it said.
        reason: String,
    },
    /// The GPU cannot be used.
    #[error("cannot compute on a GPU: {0}")]
    Gpu(#[from] CudaError),
    /// The checkpoint on this machine cannot be used.
    #[error("cannot use the local checkpoint {model}: {reason}")]
    LocalCheckpoint {
        /// As it was given.
        model: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The coordinator, or the way to it, does not let this worker in.
    #[error("{reason}")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// Another process with the same certificate took this worker's place.
    #[error(
        "another process joined with this worker's certificate\nhint: give each process a state directory of its own (`--state-dir`)"
    )]
    Superseded,
    /// The device's thread cannot be started.
    #[error("cannot start the device's thread: {reason}\nhint: see this user's limit on processes (`ulimit -u`)")]
    Thread {
        /// What the operating system says.
        reason: std::io::Error,
    },
}

impl WorkerError {
    /// The exit code that says whose fault it is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Bug { .. } => ExitCode::Bug,
            Self::Gpu(error) if error.is_hardware() => ExitCode::Hardware,
            Self::Gpu(_) | Self::LocalCheckpoint { .. } | Self::Superseded => ExitCode::Operator,
            Self::Refused { .. } => ExitCode::Peer,
            Self::Thread { .. } => ExitCode::Hardware,
        }
    }
}
