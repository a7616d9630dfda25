//! diffusers' `UNet2DConditionModel`: its configuration and its program.

mod config;
mod program;

pub use config::{UnetBlock, UnetConfig};
pub(super) use program::build;
