//! The worker: components of a denoiser on a device, driven by a plan, joined to others by links.
//!
//! - [`run`]: a worker's life, on a network of any kind.
//! - [`cli`]: the command line, for this crate's program and for the coordinator's local workers.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod actors;
mod assignment;
pub mod cli;
mod clock;
mod config;
mod device;
mod error;
mod failure;
mod intake;
mod nccl;
mod probing;
mod requests;
mod run;
mod tensor_bytes;
mod weights;

pub use config::{CacheConfig, Cpu, DeviceKind, LayerTime, Membership, Nccl, WorkerConfig};
pub use error::WorkerError;
pub use run::run;
