//! The variational autoencoder between images and latents: diffusers' `AutoencoderKL`.

mod block;
mod config;
mod decoder;
mod encoder;
mod mid_block;
mod pixels;
#[cfg(test)]
mod seams;
mod tiles;

pub use config::{MidAttention, QuantConv, VaeConfig};
pub use decoder::VaeDecoder;
pub use encoder::{EncodedImage, VaeEncoder};
pub use pixels::to_rgb8;
