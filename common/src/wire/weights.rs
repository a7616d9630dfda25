//! Parameters: how they are named, and how many are on their way or remembered.

use serde::{Deserialize, Serialize};

use super::{DType, byte_count};

/// Bytes of parameters that a worker asks for at a time (one parameter that is larger travels alone): enough to keep a 10 Gbit/s
/// link busy over a control round trip, no more memory than a component's activations, and few enough that others who want the same can
/// soon have them of this worker.
pub const WEIGHTS_IN_FLIGHT: u64 = 32 << 20;

/// A worker that was to send parameters and did not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPeer {
    /// The name in its certificate.
    pub name: String,
    /// What is known of the reason.
    pub fault: PeerFault,
}

/// Why a worker did not send parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFault {
    /// It could not be reached, was lost, said nothing for too long, or sent other bytes.
    Failed,
    /// It does not have them any more.
    NotHeld,
}

/// Parameters that a worker may hold for others, as far as the coordinator remembers: several times those of the largest checkpoint.
pub const HELD_WEIGHTS_LIMIT: usize = 8 * 1024;

/// A parameter as stored by the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightEntry {
    /// The name in the checkpoint.
    pub name: String,
    /// The axes as stored.
    pub shape: Vec<u32>,
    /// The element type as stored.
    pub dtype: DType,
    /// BLAKE3 of the stored bytes.
    pub digest: [u8; 32],
}

/// A parameter that somebody wants to be sent: what identifies its bytes, and what its header will say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedWeight {
    /// BLAKE3 of the stored bytes.
    pub digest: [u8; 32],
    /// The axes as stored.
    pub shape: Vec<u32>,
    /// The element type as stored.
    pub dtype: DType,
}

impl WantedWeight {
    /// The stored bytes' number, or `None` if it overflows.
    #[must_use]
    pub fn byte_count(&self) -> Option<u64> {
        byte_count(&self.shape, self.dtype)
    }
}

impl From<&WeightEntry> for WantedWeight {
    fn from(entry: &WeightEntry) -> Self {
        Self { digest: entry.digest, shape: entry.shape.clone(), dtype: entry.dtype }
    }
}
