//! From latents to an image.

use candle_core::Tensor;

use super::VaeConfig;
use super::block::VaeGraph;
use super::config::QuantConv;
use super::tiles::Tiling;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder};
use crate::kernels::{Kernels, Prepared};

/// The decoder half with its weights, for latents of one size; the encoder's weights are not asked for.
///
/// Images are decoded one after another, and latents of more than 96×96 in overlapping tiles of one size, whose pixels are blended: memory is
/// that of one image of at most 768×768 pixels (with 8 pixels per latent), and what the finished images take. A tile's group norms see the tile
/// and not the picture, so a large image is close to, and not the same as, what it would be if it were decoded in one piece.
#[derive(Debug)]
pub struct VaeDecoder {
    kernels: Kernels,
    /// Decodes a tile.
    prepared: Prepared,
    tiling: Tiling,
    latent_channels: usize,
    out_channels: usize,
    pixels_per_latent: usize,
}

impl VaeDecoder {
    /// Loads `decoder.*` and `post_quant_conv.*` for latents of this height and width.
    pub fn new(
        config: &VaeConfig,
        size: [usize; 2],
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        let tiling = Tiling::new(size);
        Ok(Self {
            kernels: kernels.clone(),
            prepared: kernels.prepare(graph(config, tiling.tile_size()), weights)?,
            tiling,
            latent_channels: config.latent_channels,
            out_channels: config.out_channels,
            pixels_per_latent: config.pixels_per_latent(),
        })
    }

    /// Decodes the VAE's own latents: those of the denoiser go through [`VaeConfig::to_vae_latents`] first.
    ///
    /// # Shapes
    /// - `latents`: `[batch, latent_channels, height, width]`
    /// - returns: `[batch, out_channels, pixels_per_latent * height, pixels_per_latent * width]`, about -1 to 1
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let batch = self.check(latents)?;
        let image = |index: usize| self.decode_image(&latents.narrow(0, index, 1)?);
        let images: Vec<Tensor> = (0..batch).map(image).collect::<Result<_, _>>()?;
        match &images[..] {
            [image] => Ok(image.clone()),
            images => Ok(Tensor::cat(images, 0)?),
        }
    }

    /// # Shapes
    /// - `latents`: `[1, latent_channels, height, width]`
    /// - returns: `[1, out_channels, pixels_per_latent * height, pixels_per_latent * width]`
    fn decode_image(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        let decode = |latents: &Tensor| self.prepared.run(&[&self.kernels.value_of(latents)?]);
        let device = self.kernels.device();
        if self.tiling.is_whole() {
            return decode(latents)?.to_tensor(device);
        }
        let [height, width] = self.tiling.size().map(|axis| self.pixels_per_latent * axis);
        let [tile_height, tile_width] = self.tiling.tile_size();
        let mut image = vec![0.0; self.out_channels * height * width];
        for tile in self.tiling.tiles() {
            let [top, left] = self.tiling.start(tile);
            let cut = latents.narrow(2, top, tile_height)?.narrow(3, left, tile_width)?;
            self.tiling.blend(tile, self.pixels_per_latent, &decode(&cut)?.to_elements()?, &mut image);
        }
        Ok(Tensor::from_vec(image, (1, self.out_channels, height, width), device)?)
    }

    /// The images in a batch of latents that have the size which the decoder was made for.
    fn check(&self, latents: &Tensor) -> Result<usize, ModelError> {
        let [height, width] = self.tiling.size();
        match *latents.dims() {
            [batch, channels, ref size @ ..] if channels == self.latent_channels && *size == [height, width] => {
                Ok(batch)
            }
            ref found => Err(ModelError::ShapeMismatch {
                layer: "decoder".to_owned(),
                operand: "latents".to_owned(),
                expected: format!("[batch, {}, {height}, {width}]", self.latent_channels),
                found: found.to_vec(),
            }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Slot;

    /// Stable Diffusion 1's and 2's.
    const CONFIG: &str = r#"{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}"#;

    /// The most bytes of values that some node of the graph needs at once: what its registers hold, but for what does not fit evenly.
    fn activation_bytes(graph: &Graph) -> usize {
        let first = graph.inputs().len();
        let last_read = |slot: usize| {
            let reads = |slots: &[Slot]| slots.iter().any(|read| read.index() == slot);
            graph.nodes().iter().rposition(|node| reads(&node.reads)).unwrap_or(graph.nodes().len())
        };
        let last_reads: Vec<usize> = (0..graph.nodes().len()).map(|node| last_read(first + node)).collect();
        let alive = |now: usize| (0..=now).filter(|&node| last_reads[node] >= now).collect::<Vec<_>>();
        let elements = |now| alive(now).into_iter().map(|node| graph.nodes()[node].writes.elements()).sum::<usize>();
        size_of::<f32>() * (0..graph.nodes().len()).map(elements).max().unwrap_or_default()
    }

    #[test]
    fn no_size_needs_more_memory_than_the_largest_whole_one() {
        let config = VaeConfig::from_json("vae/config.json", CONFIG).unwrap();
        let bytes = |size| activation_bytes(&graph(&config, Tiling::new(size).tile_size()));
        let whole = bytes([96, 96]);
        assert!((1_500_000_000..1_600_000_000).contains(&whole), "{whole} bytes for 768×768 pixels");
        for size in [[97, 97], [128, 128], [128, 256], [256, 256], [64, 2048], [2048, 2048]] {
            let tile = bytes(size);
            assert!(tile < 900_000_000, "{tile} bytes for latents of {size:?}");
        }
        assert!(activation_bytes(&graph(&config, [128, 128])) > 2_600_000_000);
    }
}
