//! Models on candle: layers and their kernels, model families, text encoders, VAE, noise schedulers, checkpoints.
//!
//! Synchronous, and blind to ranks and actors: what is computed where and when is decided elsewhere.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checkpoint;
mod error;
pub mod formula;
pub mod kernels;

pub use error::{ConfigError, ModelError};
