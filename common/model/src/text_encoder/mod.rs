//! Text encoders: token ids in, encoder hidden states out.

mod clip;
mod config;
mod layer;

pub use clip::{ClipTextEncoder, TextEncoding};
pub use config::ClipTextConfig;
