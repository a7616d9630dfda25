//! Models on candle: layers and their kernels, model families, text encoders, VAE, noise schedulers, checkpoints.
//!
//! Synchronous, and blind to ranks and actors: what is computed where and when is decided elsewhere.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod checkpoint;
pub mod component;
pub mod encodings;
mod error;
pub mod families;
pub mod formula;
pub mod graph;
pub mod kernels;
pub mod noise_scheduler;
pub mod seeded_noise;
pub mod text_encoder;
pub mod tokenizer;
pub mod vae;

pub use error::{ConfigError, ModelError};
