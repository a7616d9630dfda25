//! A worker as users see it.

use asyncdiff_common::wire::DeviceInfo;
use asyncdiff_plan::{JobId, Lane, PlacedPlan, Rank};
use serde::{Deserialize, Serialize};

use crate::actors::weights::WeightCounts;

/// What is known of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// The name in its certificate.
    pub name: String,
    /// What it does.
    pub state: WorkerState,
    /// What it does for which job.
    pub parts: Vec<WorkerPart>,
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
    /// Parameters that it was sent in this session.
    #[serde(default)]
    pub weights: WeightCounts,
}

/// A worker's part in a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPart {
    /// Which job.
    pub job: JobId,
    /// Its rank in that job.
    pub rank: u16,
    /// The components that it runs, in words.
    pub runs: String,
    /// The job's plan and why it was chosen, in one line.
    pub plan: String,
}

/// The components that a rank runs, in words: `component 2 of 3`, and for which part of the batch or steps if not for all.
pub(super) fn runs_of(placed: &PlacedPlan, rank: Rank) -> String {
    let components = placed.plan.partition.components();
    let slots = placed.plan.slots.iter().zip(&placed.ranks).filter(|(_, placed)| **placed == rank);
    let words = slots.map(|(slot, _)| {
        let lane = match slot.lane {
            Lane::Conditional => ", half with the prompt",
            Lane::Unconditional => ", half without the prompt",
            Lane::Whole => "",
        };
        let steps = if slot.copy > 0 { ", further steps of a round" } else { "" };
        format!("component {} of {components}{lane}{steps}", slot.component.index() + 1)
    });
    words.collect::<Vec<_>>().join("; ")
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
