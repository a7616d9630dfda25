//! Any supported denoiser: its configuration, the shape of a job, its program.

use std::sync::Arc;

use asyncdiff_plan::{LayerId, Program};

use super::config_reader::ConfigReader;
use super::op::LayerOp;
use super::unet::{self, ADDITION_EMBED_TYPE, TEXT_TIME, UnetConfig};
use crate::ModelError;

/// A denoiser's configuration, parsed and checked: every option in it is one that the builders know.
#[derive(Clone, Debug, PartialEq)]
pub enum DenoiserConfig {
    /// diffusers' `UNet2DConditionModel` as Stable Diffusion 1.x, 2.x and XL use it.
    Unet(UnetConfig),
}

/// What a job asks of the denoiser, beyond its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserShape {
    /// Height of the latents.
    pub height: u32,
    /// Width of the latents.
    pub width: u32,
    /// Tokens of the encoder hidden states.
    pub tokens: u32,
}

/// A program and, beside each layer, how to compute it.
#[derive(Clone, Debug)]
pub struct DenoiserProgram {
    /// The layers; pure data that plans and actors use.
    pub program: Arc<Program>,
    /// One operation for each layer, in program order.
    pub ops: Arc<[LayerOp]>,
}

/// Name of the graph input that carries the text encoder's output.
pub const ENCODER_HIDDEN_STATES: &str = "encoder_hidden_states";

/// Name of the graph input that carries the pooled output of SDXL's second text encoder.
pub const TEXT_EMBEDS: &str = "text_embeds";

/// Name of the graph input that carries [`TIME_IDS_COUNT`] numbers about the picture.
pub const TIME_IDS: &str = "time_ids";

/// Height and width of the original picture, top and left of the part that was cut out of it, height and width of that part. SDXL's refiner
/// has an aesthetic score in place of the last two: its pipeline says so and its `unet/config.json` does not, so that its
/// conditions are refused for their shape.
pub const TIME_IDS_COUNT: u32 = 6;

/// Side of the largest latents: 16384 pixels with the usual VAE, beyond what any supported checkpoint was trained on.
/// More would only raise the bound on what a request can make a process allocate.
const LATENT_SIDE_MAX: u32 = 2048;

/// Tokens of the longest condition: far above the 77 of CLIP, so that only nonsense is refused.
const TOKENS_MAX: u32 = 4096;

impl DenoiserConfig {
    /// Parses `unet/config.json`, whose `_class_name` chooses the family.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let reader = ConfigReader::parse("unet/config.json", text)?;
        match reader.text("_class_name") {
            Some("UNet2DConditionModel") => Ok(Self::Unet(UnetConfig::read(&reader)?)),
            _ => Err(reader.unsupported("_class_name", "\"UNet2DConditionModel\"")),
        }
    }

    /// Channels of the latents that the denoiser reads.
    #[must_use]
    pub fn in_channels(&self) -> u32 {
        match self {
            Self::Unet(config) => config.in_channels,
        }
    }

    /// Channels of the noise prediction.
    #[must_use]
    pub fn out_channels(&self) -> u32 {
        match self {
            Self::Unet(config) => config.out_channels,
        }
    }

    /// Width of the encoder hidden states.
    #[must_use]
    pub fn cross_width(&self) -> u32 {
        match self {
            Self::Unet(config) => config.cross_width,
        }
    }

    /// The options that make the denoiser read more conditions than the encoder hidden states, by key and value; `None` if it reads no other.
    #[must_use]
    pub fn added_conditions(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Unet(config) => config.added.as_ref().map(|_| (ADDITION_EMBED_TYPE, TEXT_TIME)),
        }
    }

    /// Height and width of the latents that the checkpoint was trained on, where its configuration says so.
    #[must_use]
    pub fn sample_size(&self) -> Option<[u32; 2]> {
        match self {
            Self::Unet(config) => config.sample_size,
        }
    }
}

/// Builds the denoiser's program for latents of this shape.
pub fn build(config: &DenoiserConfig, shape: &DenoiserShape) -> Result<DenoiserProgram, ModelError> {
    shape.check()?;
    match config {
        DenoiserConfig::Unet(config) => unet::build(config, shape),
    }
}

impl DenoiserShape {
    fn check(&self) -> Result<(), ModelError> {
        let bounds = [
            ("latent height", self.height, LATENT_SIDE_MAX),
            ("latent width", self.width, LATENT_SIDE_MAX),
            ("number of tokens", self.tokens, TOKENS_MAX),
        ];
        match bounds.into_iter().find(|&(_, found, max)| found == 0 || found > max) {
            Some((what, found, max)) => Err(ModelError::SizeOutOfRange { what, found, max }),
            None => Ok(()),
        }
    }
}

impl DenoiserProgram {
    /// How to compute a layer.
    ///
    /// # Panics
    /// When the id is of another program.
    #[must_use]
    pub fn op(&self, layer: LayerId) -> &LayerOp {
        &self.ops[layer.index()]
    }
}
