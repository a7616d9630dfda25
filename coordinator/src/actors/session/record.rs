//! A worker as users see it.

use asyncdiff_common::wire::DeviceInfo;
use asyncdiff_plan::JobId;
use serde::{Deserialize, Serialize};

/// What is known of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The name in its certificate.
    pub name: String,
    /// What it does.
    pub state: WorkerState,
    /// The job that it serves.
    pub job: Option<JobId>,
    /// Its rank in that job.
    pub rank: Option<u16>,
    /// Its version of this software.
    pub version: String,
    /// Its devices.
    pub devices: Vec<DeviceInfo>,
    /// Where it is reached.
    pub address: String,
    /// Its process id.
    pub process_id: u32,
    /// Tensors that it sent to the coordinator in this session.
    pub tensors: TensorCounts,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    /// It is to leave: its part of running jobs moves to others first.
    Leaving,
    /// It waits for a job.
    Ready,
    /// It serves a job.
    Working,
}

/// Tensors that a worker announced to the coordinator in a session, counted when the coordinator was asked to admit
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorCounts {
    /// Noise predictions that the plan expects.
    pub noise_predictions: u64,
    /// Tensors of requests: encoder hidden states, pixels.
    pub replies: u64,
    /// What was not wanted.
    pub refused: u64,
    /// What came after its job had ended.
    pub late: u64,
}
