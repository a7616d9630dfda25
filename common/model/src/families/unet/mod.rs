//! diffusers' `UNet2DConditionModel`: its configuration and its program.

mod config;
mod program;

pub(super) use config::{ADDITION_EMBED_TYPE, TEXT_TIME};
pub use config::{AddedEmbedding, UnetBlock, UnetConfig};
pub(super) use program::build;
