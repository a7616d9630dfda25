//! What runs where and when: programs of layers, partitions of them, plans, and the engine that follows a plan.
//!
//! This crate is pure: no clock, no IO, no thread, no randomness, no tensor. Time comes in as `Instant`, costs as
//! seconds measured by somebody else, tensors as a type parameter. Whatever can be decided without a socket is decided here.

mod ids;
mod lane;
mod program;

pub use ids::{ComponentId, Epoch, InputId, JobId, LayerId, Rank, StepIndex, ValueId};
pub use lane::{Instance, Lane};
pub use program::{InputKind, InputSpec, Layer, Operand, Ownership, Program, ProgramError, ValueSpec, WeightSpec};
