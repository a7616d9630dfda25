//! What travels between coordinator and workers: control messages, tensor headers, failures.
//!
//! History of the wire's version ([`VERSION`]), which is part of every handshake:
//! - 1: the first.
//! - 2: what a denoiser is computed in; keys and values of cross attentions are layers of the program;
//!   hidden states are channels last.

mod control;
mod failure;
mod tensor;

pub use control::{
    Assignment, DenoiserSpec, DeviceInfo, Endpoint, Hello, LayerCost, PartSpec, Peer, RankReport, ToCoordinator,
    ToWorker, TraceEvent, TraceKind, Tracing, WEIGHTS_IN_FLIGHT, WeightEntry, WorkerReply, WorkerRequest,
};
pub use failure::WorkerFailure;
pub use tensor::{ComputeType, DType, MAX_AXES, TENSOR_LIMIT_BYTES, TensorHeader, TensorName};

/// The wire's version: raised whenever a message, a header or a handshake changes its bytes.
pub const VERSION: u32 = 2;
