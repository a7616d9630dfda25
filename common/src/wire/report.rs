//! How a job went at a worker.

use asyncdiff_plan::{Lane, LayerId, RunId, StepIndex};
use serde::{Deserialize, Serialize};

/// How a job went at one rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankReport {
    /// Median seconds of each layer that ran.
    pub layer_seconds: Vec<(LayerId, f64)>,
    /// Seconds spent computing layers.
    pub busy_seconds: f64,
    /// Bytes of hidden states sent to other ranks, headers and payload, as the links count them.
    pub hidden_state_bytes_sent: u64,
    /// Of those, what went from GPU to GPU over NCCL, without headers.
    pub nccl_bytes_sent: u64,
    /// Bytes of parameters that its components hold.
    pub resident_bytes: u64,
    /// The process's peak resident memory.
    pub peak_memory_bytes: u64,
    /// The most bytes of its GPU's memory that it has held at a time, beside what CUDA's libraries take; 0 where no GPU computes.
    pub gpu_bytes: u64,
    /// What happened when, if the job was traced.
    pub events: Vec<TraceEvent>,
}

/// One bar of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceEvent {
    /// What happened.
    pub kind: TraceKind,
    /// The run that it belongs to, if any.
    pub run: Option<RunId>,
    /// Microseconds since 1970 at its start.
    pub start_micros: u64,
    /// How long it took.
    pub duration_micros: u64,
}

/// What a bar of a trace shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TraceKind {
    /// A layer was computed.
    Layer(LayerId),
    /// A tensor arrived.
    Received(super::TensorName),
    /// A tensor was handed to a link.
    Sent(super::TensorName),
    /// The device had nothing to compute.
    Waited,
    /// Guidance and noise scheduler step, at the coordinator.
    SchedulerStep(StepIndex),
    /// A noise prediction of these rows was joined, at the coordinator.
    Predicted(StepIndex, Lane),
}
