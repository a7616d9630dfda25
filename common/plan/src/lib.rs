//! What runs where and when: programs of layers, partitions of them, plans, and the engine that follows a plan.
//!
//! This crate is pure: no clock, no IO, no thread, no randomness, no tensor. Time comes in as `Instant`, costs as
//! seconds measured by somebody else, tensors as a type parameter. Whatever can be decided without a socket is decided here.
//!
//! ```text
//!   Program ──► Partition ──► Plan ──► PlacedPlan ──► RankPlan ──► Inbox       at each worker
//!                  ▲            ▲          │
//!               balance      Schedule      └──► DenoiseEngine                  at the coordinator
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod balance;
mod chain;
mod draw;
mod encoding;
mod engine;
mod ids;
mod inbox;
mod lane;
mod links;
mod partition;
mod placement;
mod plan;
mod policy;
mod predict;
mod program;
mod schedule;

pub use balance::{CutShape, Prices, Split, splits};
pub use chain::{Chain, ChainError};
pub use draw::draw;
pub use encoding::{DELTA_GROUP, DELTA_SCALE_BYTES, Delta, DeltaBits, Encoding};
pub use engine::{Command, DenoiseEngine, Event, JobFailure};
pub use ids::{ComponentId, Epoch, InputId, JobId, LayerId, Rank, StepIndex, ValueId};
pub use inbox::{Inbox, InboxError, Output, Source, Work};
pub use lane::{Instance, Lane};
pub use links::{LinkCost, Links};
pub use partition::{Crossing, Partition, PartitionError};
pub use placement::{FromStepError, PlacedPlan, PlacementError, RankPlan, Transfer};
pub use plan::{Plan, Read, Run, RunId, Slot};
pub use policy::{Choice, Cut, Device, LayerMemory, PolicyError, Prefer, Situation, Switch, Wishes, choose};
pub use predict::{Costs, Edge, LayerSeconds, Prediction, RunSpan, instance_bytes, predict};
pub use program::{InputKind, InputSpec, Layer, Operand, Ownership, Program, ProgramError, ValueSpec, WeightSpec};
pub use schedule::{Guidance, Round, RoundStart, Schedule, ScheduleError, TimeShift, WarmUpBatch};
