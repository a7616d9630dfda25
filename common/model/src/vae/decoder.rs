//! From latents to an image.

use candle_core::Tensor;

use super::VaeConfig;
use super::block::VaeGraph;
use super::config::QuantConv;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder};
use crate::kernels::{Kernels, Prepared};

/// The decoder half with its weights, for latents of one size; the encoder's weights are not asked for.
#[derive(Debug)]
pub struct VaeDecoder {
    kernels: Kernels,
    prepared: Prepared,
}

impl VaeDecoder {
    /// Loads `decoder.*` and `post_quant_conv.*` for latents of this height and width.
    pub fn new(
        config: &VaeConfig,
        size: [usize; 2],
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        Ok(Self { kernels: kernels.clone(), prepared: kernels.prepare(graph(config, size), weights)? })
    }

    /// Decodes the VAE's own latents: those of the denoiser go through [`VaeConfig::to_vae_latents`] first.
    ///
    /// # Shapes
    /// - `latents`: `[batch, latent_channels, height, width]`
    /// - returns: `[batch, out_channels, pixels_per_latent * height, pixels_per_latent * width]`, about -1 to 1
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        self.prepared.run(&[&self.kernels.value_of(latents)?])?.to_tensor(self.kernels.device())
    }

    /// The decoder's graph with its kernels, for benchmarks.
    #[must_use]
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }
}

/// # Shapes
/// - input: `[height, width, latent_channels]`
/// - output: `[pixels_per_latent * height, pixels_per_latent * width, out_channels]`
pub(super) fn graph(config: &VaeConfig, [height, width]: [usize; 2]) -> Graph {
    let latents = Extent { height, width, channels: config.latent_channels };
    let mut vae = VaeGraph { graph: GraphBuilder::new(&[latents]), groups: config.groups };
    let latents = vae.graph.input(0);
    let latents = match config.post_quant_conv {
        QuantConv::Absent => latents,
        QuantConv::Present => {
            vae.graph.convolution("post_quant_conv", &[latents], Convolution::pointwise(config.latent_channels))
        }
    };
    let innermost = config.block_channels[config.block_channels.len() - 1];
    let hidden = vae.graph.convolution("decoder.conv_in", &[latents], Convolution::same3(innermost));
    let mut hidden = vae.mid_block("decoder.mid_block", hidden, config.mid_attention);
    for (index, &channels) in config.block_channels.iter().rev().enumerate() {
        let path = format!("decoder.up_blocks.{index}");
        for layer in 0..=config.layers_per_block {
            hidden = vae.resnet(&format!("{path}.resnets.{layer}"), hidden, channels);
        }
        if index + 1 < config.block_channels.len() {
            let Extent { height, width, .. } = vae.graph.extent(hidden);
            let doubling = Convolution { upsampled: Some([2 * height, 2 * width]), ..Convolution::same3(channels) };
            hidden = vae.graph.convolution(&format!("{path}.upsamplers.0.conv"), &[hidden], doubling);
        }
    }
    let normed = vae.norm("decoder.conv_norm_out", hidden, Activation::Silu);
    let image = vae.graph.convolution("decoder.conv_out", &[normed], Convolution::same3(config.out_channels));
    vae.graph.finish(&[image])
}
