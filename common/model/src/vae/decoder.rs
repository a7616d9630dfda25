//! From latents to an image.

use candle_core::Tensor;

use super::VaeConfig;
use super::block::{Loader, Resnet};
use super::config::QuantConv;
use super::mid_block::MidBlock;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::kernels::{Activation, Conv2d, Conv2dSpec, GroupNorm, Kernels};

/// The decoder half with its weights; the encoder's are not asked for.
pub struct VaeDecoder {
    kernels: Kernels,
    post_quant_conv: Option<Conv2d>,
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

struct UpBlock {
    resnets: Vec<Resnet>,
    /// Applied after doubling height and width; the last block has none.
    upsampler: Option<Conv2d>,
}

impl VaeDecoder {
    /// Loads `decoder.*` and `post_quant_conv.*` onto the kernels' device.
    pub fn new(config: &VaeConfig, weights: &dyn Weights, kernels: &Kernels) -> Result<Self, ModelError> {
        let loader = Loader { weights, kernels, groups: config.groups };
        let latent = config.latent_channels;
        let outwards: Vec<usize> = config.block_channels.iter().rev().copied().collect();
        let (innermost, outermost) = (outwards[0], outwards[outwards.len() - 1]);
        let post_quant_conv = match config.post_quant_conv {
            QuantConv::Absent => None,
            QuantConv::Present => Some(loader.conv(Conv2dSpec::pointwise(latent, latent), "post_quant_conv")?),
        };
        let mut up_blocks = Vec::with_capacity(outwards.len());
        let mut in_channels = innermost;
        for (index, &channels) in outwards.iter().enumerate() {
            up_blocks.push(UpBlock::load(loader, config, index, (in_channels, channels))?);
            in_channels = channels;
        }
        Ok(Self {
            kernels: kernels.clone(),
            post_quant_conv,
            conv_in: loader.conv(Conv2dSpec::same3(latent, innermost), "decoder.conv_in")?,
            mid_block: MidBlock::load(loader, innermost, config.mid_attention, "decoder.mid_block")?,
            up_blocks,
            norm_out: loader.norm(outermost, Activation::Silu, "decoder.conv_norm_out")?,
            conv_out: loader.conv(Conv2dSpec::same3(outermost, config.out_channels), "decoder.conv_out")?,
        })
    }

    /// Decodes the VAE's own latents: those of the denoiser go through [`VaeConfig::to_vae_latents`] first.
    ///
    /// # Shapes
    /// - `latents`: `[batch, latent_channels, height, width]`
    /// - returns: `[batch, out_channels, pixels_per_latent * height, pixels_per_latent * width]`, about -1 to 1
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let latents = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents)?,
            None => latents.clone(),
        };
        let mut hidden = self.mid_block.forward(&self.conv_in.forward(&latents)?)?;
        for block in &self.up_blocks {
            hidden = block.forward(&hidden, &self.kernels)?;
        }
        self.conv_out.forward(&self.norm_out.forward(&hidden)?)
    }
}

impl UpBlock {
    fn load(
        loader: Loader<'_>,
        config: &VaeConfig,
        index: usize,
        (in_channels, channels): (usize, usize),
    ) -> Result<Self, ModelError> {
        let path = format!("decoder.up_blocks.{index}");
        let resnet = |layer| {
            let in_channels = if layer == 0 { in_channels } else { channels };
            Resnet::load(loader, in_channels, channels, &format!("{path}.resnets.{layer}"))
        };
        let resnets = (0..=config.layers_per_block).map(resnet).collect::<Result<_, _>>()?;
        let upsampler = match index + 1 < config.block_channels.len() {
            true => Some(loader.conv(Conv2dSpec::same3(channels, channels), &format!("{path}.upsamplers.0.conv"))?),
            false => None,
        };
        Ok(Self { resnets, upsampler })
    }

    fn forward(&self, hidden: &Tensor, kernels: &Kernels) -> Result<Tensor, ModelError> {
        let mut hidden = hidden.clone();
        for resnet in &self.resnets {
            hidden = resnet.forward(&hidden)?;
        }
        match &self.upsampler {
            Some(conv) => {
                let (_batch, _channels, height, width) = hidden.dims4()?;
                conv.forward(&kernels.upsample_nearest(&hidden, 2 * height, 2 * width)?)
            }
            None => Ok(hidden),
        }
    }
}
