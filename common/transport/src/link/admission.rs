//! Asking the receiving side about a tensor before a byte of it is allocated.

use asyncdiff_common::wire::{DType, TensorHeader};
use asyncdiff_plan::{Delta, Epoch, JobId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::TensorFrame;
use crate::PeerName;

/// Decides which tensors a peer may send. Called on the transport's thread for every header: it must not wait.
pub trait Admission: Send + Sync {
    /// Says whether the tensor that this header announces is wanted from that peer.
    fn admit(&self, peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal>;

    /// Takes a tensor that was admitted, on the transport's thread, so that no other thread has to wake before whoever
    /// reads it. What is given back goes to the link's [`TensorReceiver`](super::TensorReceiver). Must not wait either.
    fn take(&self, frame: TensorFrame) -> Option<TensorFrame> {
        Some(frame)
    }
}

/// Why a tensor is not wanted.
///
/// What is merely late is dropped and counted. Everything else means that the peer does not follow the plan, and closes
/// the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refusal {
    /// Late: the job has ended or was cancelled.
    #[error("{job} has ended")]
    EndedJob {
        /// The job in the header.
        job: JobId,
    },
    /// Late: the sender still works in an epoch that is over.
    #[error("it is of epoch {found} and the job is in {expected}")]
    OldEpoch {
        /// The epoch that the job is in.
        expected: Epoch,
        /// The epoch in the header.
        found: Epoch,
    },
    /// Larger than the receiver accepts here.
    #[error("it has {found_bytes} bytes and at most {limit_bytes} are accepted")]
    TooLarge {
        /// Bytes that the header announces.
        found_bytes: u64,
        /// The most that are accepted.
        limit_bytes: u64,
    },
    /// The plan has no such tensor on this link.
    #[error("the plan has no such tensor from this peer")]
    Unexpected,
    /// The receiver was given no such job.
    #[error("{job} is unknown")]
    UnknownJob {
        /// The job in the header.
        job: JobId,
    },
    /// Another element type than the plan's.
    #[error("its elements are {found:?} and the plan says {expected:?}")]
    WrongDType {
        /// The plan's.
        expected: DType,
        /// The header's.
        found: DType,
    },
    /// Another encoding, or differences from another version, than the plan's.
    #[error("its differences are {found:?} and the plan says {expected:?}")]
    WrongDelta {
        /// The plan's; `None` for all elements.
        expected: Option<Delta>,
        /// The header's.
        found: Option<Delta>,
    },
    /// Another shape than the plan's.
    #[error("its shape is {found:?} and the plan says {expected:?}")]
    WrongShape {
        /// The plan's.
        expected: Vec<u32>,
        /// The header's.
        found: Vec<u32>,
    },
}

impl Refusal {
    /// Whether an honest peer can cause it, because its frame and our change of plan crossed on the way.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Self::EndedJob { .. } | Self::OldEpoch { .. })
    }
}

/// Admits every tensor within the wire's limits. For benchmarks, tests and a link's inner layers; a process that
/// listens uses its plan instead.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdmitEverything;

impl Admission for AdmitEverything {
    fn admit(&self, _peer: &PeerName, _header: &TensorHeader) -> Result<(), Refusal> {
        Ok(())
    }
}
