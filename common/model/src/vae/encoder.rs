//! From an image to the distribution of its latents.

use candle_core::Tensor;

use super::VaeConfig;
use super::block::VaeGraph;
use super::config::QuantConv;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder};
use crate::kernels::{Kernels, Prepared};

/// The logarithm of the variance is kept between these, as diffusers does.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// The encoder half with its weights, for images of one size; the decoder's weights are not asked for.
#[derive(Debug)]
pub struct VaeEncoder {
    kernels: Kernels,
    prepared: Prepared,
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
    /// Loads `encoder.*` and `quant_conv.*` for images of this height and width: multiples of `pixels_per_latent`.
    pub fn new(
        config: &VaeConfig,
        size: [usize; 2],
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        let pixels_per_latent = config.pixels_per_latent();
        if size.iter().any(|&axis| axis == 0 || !axis.is_multiple_of(pixels_per_latent)) {
            return Err(ModelError::ShapeMismatch {
                layer: "encoder".to_owned(),
                operand: "image".to_owned(),
                expected: format!("height and width in multiples of {pixels_per_latent}"),
                found: size.to_vec(),
            });
        }
        Ok(Self { kernels: kernels.clone(), prepared: kernels.prepare(graph(config, size), weights)? })
    }

    /// Encodes; latents for a denoiser go through [`VaeConfig::to_denoiser_latents`] afterwards.
    ///
    /// # Shapes
    /// - `image`: `[batch, in_channels, height, width]`, -1 to 1
    /// - returns: see [`EncodedImage`]; height and width divided by `pixels_per_latent`
    pub fn encode(&self, image: &Tensor) -> Result<EncodedImage, ModelError> {
        let moments = self.prepared.run(&[&self.kernels.value_of(image)?])?.to_tensor(self.kernels.device())?;
        let halves = moments.chunk(2, 1)?;
        let (lowest, highest) = LOG_VARIANCE;
        Ok(EncodedImage { mean: halves[0].contiguous()?, log_variance: halves[1].clamp(lowest, highest)? })
    }
}

/// # Shapes
/// - input: `[height, width, in_channels]`
/// - output: mean and logarithm of the variance, `[height / pixels_per_latent, width / pixels_per_latent, 2 * latent_channels]`
pub(super) fn graph(config: &VaeConfig, [height, width]: [usize; 2]) -> Graph {
    let image = Extent { height, width, channels: config.in_channels };
    let mut vae = VaeGraph { graph: GraphBuilder::new(&[image]), groups: config.groups };
    let image = vae.graph.input(0);
    let mut hidden = vae.graph.convolution("encoder.conv_in", &[image], Convolution::same3(config.block_channels[0]));
    for (index, &channels) in config.block_channels.iter().enumerate() {
        let path = format!("encoder.down_blocks.{index}");
        for layer in 0..config.layers_per_block {
            hidden = vae.resnet(&format!("{path}.resnets.{layer}"), hidden, channels);
        }
        if index + 1 < config.block_channels.len() {
            // Zeros at the right and the bottom only.
            let halving = Convolution { stride: 2, padding: [0, 1], ..Convolution::same3(channels) };
            hidden = vae.graph.convolution(&format!("{path}.downsamplers.0.conv"), &[hidden], halving);
        }
    }
    let hidden = vae.mid_block("encoder.mid_block", hidden, config.mid_attention);
    let normed = vae.norm("encoder.conv_norm_out", hidden, Activation::Silu);
    let moments = 2 * config.latent_channels;
    let mut output = vae.graph.convolution("encoder.conv_out", &[normed], Convolution::same3(moments));
    if config.quant_conv == QuantConv::Present {
        output = vae.graph.convolution("quant_conv", &[output], Convolution::pointwise(moments));
    }
    vae.graph.finish(&[output])
}
