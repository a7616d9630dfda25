//! What a worker computes on, as it tells the coordinator.

use serde::{Deserialize, Serialize};

use super::ComputeType;

/// A device of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// `cpu` or `cuda`.
    pub kind: String,
    /// Such as `NVIDIA RTX A5000`; empty for a CPU.
    pub name: String,
    /// Threads that compute.
    pub threads: u32,
    /// Memory that the worker may use, in bytes.
    pub memory_bytes: u64,
    /// What it computes fastest in.
    pub fastest: ComputeType,
}

impl DeviceInfo {
    /// What [`DeviceInfo::kind`] says of a GPU.
    pub const GPU: &str = "cuda";

    /// Whether it is as fast in a type as it is in any.
    #[must_use]
    pub fn is_fast_in(&self, compute: ComputeType) -> bool {
        // A GPU with units for bf16 has them for f16.
        let is_f16 = compute == ComputeType::F16 && self.kind == Self::GPU && self.fastest == ComputeType::Bf16;
        self.fastest == compute || is_f16
    }
}
