//! What goes wrong with NCCL.

use std::fmt;

use thiserror::Error;

/// Why a communicator cannot be made or used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NcclError {
    /// The communicator was aborted before.
    #[error("the communicator was given up")]
    Aborted,
    /// The name of a communicator has another length than NCCL's.
    #[error("a communicator's name has {found} bytes and NCCL's have {}", super::UNIQUE_ID_BYTES)]
    BadUniqueId {
        /// The bytes that came.
        found: usize,
    },
    /// A call failed: the hardware's fault, its driver's, or that of whoever set NCCL up.
    #[error("NCCL failed to {operation}: {what} (code {code}); {detail}")]
    Call {
        /// What was attempted.
        operation: NcclOperation,
        /// `ncclResult_t`.
        code: i32,
        /// What NCCL calls it.
        what: String,
        /// What NCCL says of the last error; may be empty.
        detail: String,
    },
    /// There is no NCCL here.
    #[error(
        "libnccl.so.2 cannot be opened: {reason}\nhint: install NCCL and name its folder in LD_LIBRARY_PATH; without it hidden states go through the host's memory"
    )]
    MissingLibrary {
        /// What the system says.
        reason: String,
    },
}

/// What NCCL was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NcclOperation {
    /// Go on: an error that came by itself.
    GoOn,
    /// Join a communicator.
    Join,
    /// Name a communicator.
    Name,
    /// Receive from the peer.
    Receive,
    /// Send to the peer.
    Send,
    /// Say its version.
    Version,
}

impl fmt::Display for NcclOperation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::GoOn => "go on",
            Self::Join => "join a communicator",
            Self::Name => "name a communicator",
            Self::Receive => "receive a tensor",
            Self::Send => "send a tensor",
            Self::Version => "say its version",
        })
    }
}
