//! Model families: from a denoiser's `config.json` to its program, without weights.
//!
//! ```text
//! config.json ─► DenoiserConfig ─┐
//! latent size, tokens ─► DenoiserShape ─┴─► build ─► DenoiserProgram { program (pure), ops (how to compute each layer) }
//! ```
//!
//! A family is a builder that walks its configuration and adds layers to a `ProgramBuilder`; it knows no tensor. What a
//! layer writes, needs and costs follows from its [`LayerOp`], so a family that reuses operations adds only its topology.
//! Unknown families and options that would change the result are refused by name.

mod account;
mod builder;
mod config_reader;
mod denoiser;
mod op;
mod unet;

pub use denoiser::{
    DenoiserConfig, DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES, TEXT_EMBEDS, TIME_IDS, TIME_IDS_COUNT, build,
};
pub use op::{
    AddedEmbeddingOp, AttentionOp, ContextOp, ConvOp, FeedForwardOp, GroupNormOp, LayerOp, ProjectionOp, ResnetInOp,
    ResnetOutOp, SinusoidsWidth, TimeEmbeddingOp, UpsampleOp,
};
pub use unet::{AddedEmbedding, UnetBlock, UnetConfig};
