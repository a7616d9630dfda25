//! From an image to the distribution of its latents.

use candle_core::{D, Tensor};

use super::VaeConfig;
use super::block::{Loader, Resnet};
use super::config::QuantConv;
use super::mid_block::MidBlock;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::kernels::{Activation, Conv2d, Conv2dSpec, GroupNorm, Kernels};

/// The logarithm of the variance is kept between these, as diffusers does.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// The encoder half with its weights; the decoder's are not asked for.
pub struct VaeEncoder {
    pixels_per_latent: usize,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Conv2d>,
}

struct DownBlock {
    resnets: Vec<Resnet>,
    /// Halves height and width; the last block has none.
    downsampler: Option<Conv2d>,
}

/// The normal distribution of an image's latents, in the VAE's own scale.
#[derive(Clone, Debug)]
pub struct EncodedImage {
    /// `[batch, latent_channels, height, width]`
    pub mean: Tensor,
    /// The logarithm of the variance: `[batch, latent_channels, height, width]`
    pub log_variance: Tensor,
}

impl VaeEncoder {
    /// Loads `encoder.*` and `quant_conv.*` onto the kernels' device.
    pub fn new(config: &VaeConfig, weights: &dyn Weights, kernels: &Kernels) -> Result<Self, ModelError> {
        let loader = Loader { weights, kernels, groups: config.groups };
        let (outermost, innermost) = (config.block_channels[0], config.block_channels[config.block_channels.len() - 1]);
        let moments = 2 * config.latent_channels;
        let conv_in = loader.conv(Conv2dSpec::same3(config.in_channels, outermost), "encoder.conv_in")?;
        let mut down_blocks = Vec::with_capacity(config.block_channels.len());
        let mut in_channels = outermost;
        for (index, &channels) in config.block_channels.iter().enumerate() {
            down_blocks.push(DownBlock::load(loader, config, index, (in_channels, channels))?);
            in_channels = channels;
        }
        let quant_conv = match config.quant_conv {
            QuantConv::Absent => None,
            QuantConv::Present => Some(loader.conv(Conv2dSpec::pointwise(moments, moments), "quant_conv")?),
        };
        Ok(Self {
            pixels_per_latent: config.pixels_per_latent(),
            conv_in,
            down_blocks,
            mid_block: MidBlock::load(loader, innermost, config.mid_attention, "encoder.mid_block")?,
            norm_out: loader.norm(innermost, Activation::Silu, "encoder.conv_norm_out")?,
            conv_out: loader.conv(Conv2dSpec::same3(innermost, moments), "encoder.conv_out")?,
            quant_conv,
        })
    }

    /// Encodes; latents for a denoiser go through [`VaeConfig::to_denoiser_latents`] afterwards.
    ///
    /// # Shapes
    /// - `image`: `[batch, in_channels, height, width]`, -1 to 1; height and width multiples of `pixels_per_latent`
    /// - returns: see [`EncodedImage`]; height and width divided by `pixels_per_latent`
    pub fn encode(&self, image: &Tensor) -> Result<EncodedImage, ModelError> {
        let (_batch, _channels, height, width) = image.dims4()?;
        let divides = |axis: usize| axis > 0 && axis.is_multiple_of(self.pixels_per_latent);
        if !divides(height) || !divides(width) {
            return Err(ModelError::ShapeMismatch {
                layer: "encoder".to_owned(),
                operand: "image".to_owned(),
                expected: format!("height and width in multiples of {}", self.pixels_per_latent),
                found: image.dims().to_vec(),
            });
        }
        let mut hidden = self.conv_in.forward(image)?;
        for block in &self.down_blocks {
            hidden = block.forward(&hidden)?;
        }
        let hidden = self.mid_block.forward(&hidden)?;
        let mut moments = self.conv_out.forward(&self.norm_out.forward(&hidden)?)?;
        if let Some(conv) = &self.quant_conv {
            moments = conv.forward(&moments)?;
        }
        let halves = moments.chunk(2, 1)?;
        let (lowest, highest) = LOG_VARIANCE;
        Ok(EncodedImage { mean: halves[0].contiguous()?, log_variance: halves[1].clamp(lowest, highest)? })
    }
}

impl DownBlock {
    fn load(
        loader: Loader<'_>,
        config: &VaeConfig,
        index: usize,
        (in_channels, channels): (usize, usize),
    ) -> Result<Self, ModelError> {
        let path = format!("encoder.down_blocks.{index}");
        let resnet = |layer| {
            let in_channels = if layer == 0 { in_channels } else { channels };
            Resnet::load(loader, in_channels, channels, &format!("{path}.resnets.{layer}"))
        };
        let resnets = (0..config.layers_per_block).map(resnet).collect::<Result<_, _>>()?;
        let halve = Conv2dSpec { in_channels: channels, out_channels: channels, kernel: 3, stride: 2, padding: 0 };
        let downsampler = match index + 1 < config.block_channels.len() {
            true => Some(loader.conv(halve, &format!("{path}.downsamplers.0.conv"))?),
            false => None,
        };
        Ok(Self { resnets, downsampler })
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let mut hidden = hidden.clone();
        for resnet in &self.resnets {
            hidden = resnet.forward(&hidden)?;
        }
        match &self.downsampler {
            // Zeros at the right and the bottom only.
            Some(conv) => {
                let padded = hidden.pad_with_zeros(D::Minus1, 0, 1)?.pad_with_zeros(D::Minus2, 0, 1)?;
                conv.forward(&padded)
            }
            None => Ok(hidden),
        }
    }
}
