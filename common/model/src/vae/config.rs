//! The configuration of a VAE, as `vae/config.json` holds it.

use asyncdiff_plan::WeightSpec;
use candle_core::Tensor;
use serde::Deserialize;

use super::{decoder, encoder};
use crate::{ConfigError, ModelError};

/// The most channels of a layer that are taken for meant: 32 times those of the largest known VAE.
const CHANNEL_LIMIT: usize = 1 << 14;

/// The most blocks; each halves the picture, so ten make 1024 pixels one.
const BLOCK_LIMIT: usize = 10;

/// Which VAE it is.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the image that is encoded.
    pub in_channels: usize,
    /// Channels of the image that is decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each block, from the image inwards.
    pub block_channels: Vec<usize>,
    /// ResNet blocks per encoder block; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of all group norms.
    pub groups: usize,
    /// What the denoiser's latents are multiplied with.
    pub scaling_factor: f64,
    /// What is subtracted before that.
    pub shift_factor: f64,
    /// Whether the middle block has attention.
    pub mid_attention: MidAttention,
    /// Whether a 1×1 convolution follows the encoder.
    pub quant_conv: QuantConv,
    /// Whether a 1×1 convolution precedes the decoder.
    pub post_quant_conv: QuantConv,
}

/// Whether the middle block has attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MidAttention {
    /// Two ResNet blocks alone.
    Absent,
    /// Attention between the two.
    Present,
}

/// Whether there is a 1×1 convolution at the latents' side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantConv {
    /// There is none.
    Absent,
    /// There is one.
    Present,
}

/// The file's keys, with the defaults of diffusers.
#[derive(Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "_class_name")]
    class_name: String,
    in_channels: usize,
    out_channels: usize,
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    act_fn: String,
    down_block_types: Option<Vec<String>>,
    up_block_types: Option<Vec<String>>,
    scaling_factor: f64,
    shift_factor: Option<f64>,
    latents_mean: Option<serde_json::Value>,
    mid_block_add_attention: bool,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            class_name: "AutoencoderKL".to_owned(),
            in_channels: 3,
            out_channels: 3,
            latent_channels: 4,
            block_out_channels: vec![64],
            layers_per_block: 1,
            norm_num_groups: 32,
            act_fn: "silu".to_owned(),
            down_block_types: None,
            up_block_types: None,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            mid_block_add_attention: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
        }
    }
}

impl VaeConfig {
    /// Reads the configuration; `file` names it in errors.
    pub fn from_json(file: &str, text: &str) -> Result<Self, ConfigError> {
        let keys: File = serde_json::from_str(text).map_err(|error| ConfigError::unreadable(file, &error))?;
        keys.check_kind(file)?;
        keys.check_sizes(file)?;
        let quant_conv = |present| if present { QuantConv::Present } else { QuantConv::Absent };
        Ok(Self {
            in_channels: keys.in_channels,
            out_channels: keys.out_channels,
            latent_channels: keys.latent_channels,
            block_channels: keys.block_out_channels,
            layers_per_block: keys.layers_per_block,
            groups: keys.norm_num_groups,
            scaling_factor: keys.scaling_factor,
            shift_factor: keys.shift_factor.unwrap_or(0.0),
            mid_attention: if keys.mid_block_add_attention { MidAttention::Present } else { MidAttention::Absent },
            quant_conv: quant_conv(keys.use_quant_conv),
            post_quant_conv: quant_conv(keys.use_post_quant_conv),
        })
    }

    /// Pixels per latent along one axis.
    #[must_use]
    pub fn pixels_per_latent(&self) -> usize {
        1 << (self.block_channels.len() - 1)
    }

    /// The parameters that the decoder needs, with their names in the checkpoint.
    #[must_use]
    pub fn decoder_weight_specs(&self) -> Vec<WeightSpec> {
        decoder::graph(self, [1; 2]).parameters()
    }

    /// The parameters that the encoder needs, with their names in the checkpoint.
    #[must_use]
    pub fn encoder_weight_specs(&self) -> Vec<WeightSpec> {
        encoder::graph(self, [self.pixels_per_latent(); 2]).parameters()
    }

    /// From the denoiser's latents to the VAE's own: what a pipeline does before it decodes.
    ///
    /// # Shapes
    /// - `latents`: any
    /// - returns: the same
    pub fn to_vae_latents(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        Ok(latents.affine(1.0 / self.scaling_factor, self.shift_factor)?)
    }

    /// From the VAE's own latents to the denoiser's: what a pipeline does after it encodes.
    ///
    /// # Shapes
    /// - `latents`: any
    /// - returns: the same
    pub fn to_denoiser_latents(&self, latents: &Tensor) -> Result<Tensor, ModelError> {
        Ok(latents.affine(self.scaling_factor, -self.shift_factor * self.scaling_factor)?)
    }
}

impl File {
    fn check_kind(&self, file: &str) -> Result<(), ConfigError> {
        let unsupported = |key: &str, found: &str, supported: &str| {
            Err(ConfigError::new(file, key, found, format!("supported is {supported}")))
        };
        if self.class_name != "AutoencoderKL" {
            return unsupported("_class_name", &self.class_name, "AutoencoderKL");
        }
        if self.act_fn != "silu" && self.act_fn != "swish" {
            return unsupported("act_fn", &self.act_fn, "silu");
        }
        if self.latents_mean.is_some() {
            return unsupported("latents_mean", "a list", "null: one scaling_factor for all channels");
        }
        let blocks = [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ];
        for (key, kinds, supported) in blocks {
            let Some(kinds) = kinds else { continue };
            if let Some(other) = kinds.iter().find(|kind| *kind != supported) {
                return unsupported(key, other, supported);
            }
            if kinds.len() != self.block_out_channels.len() {
                let supported = format!("one block for each of block_out_channels {:?}", self.block_out_channels);
                return unsupported(key, &format!("a list of {}", kinds.len()), &supported);
            }
        }
        Ok(())
    }

    fn check_sizes(&self, file: &str) -> Result<(), ConfigError> {
        let blocks = self.block_out_channels.len();
        if blocks == 0 || blocks > BLOCK_LIMIT {
            let expected = format!("1 to {BLOCK_LIMIT} blocks are supported");
            return Err(ConfigError::new(file, "block_out_channels", format!("a list of {blocks}"), expected));
        }
        let mut sizes = vec![
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
        ];
        sizes.extend(self.block_out_channels.iter().map(|&channels| ("block_out_channels", channels)));
        for (key, size) in sizes {
            if size == 0 || size > CHANNEL_LIMIT {
                let expected = format!("a number from 1 to {CHANNEL_LIMIT} is needed");
                return Err(ConfigError::new(file, key, size, expected));
            }
            if key == "block_out_channels" && !size.is_multiple_of(self.norm_num_groups) {
                let expected = format!("multiples of norm_num_groups {} are needed", self.norm_num_groups);
                return Err(ConfigError::new(file, key, size, expected));
            }
        }
        if !self.scaling_factor.is_normal() {
            return Err(ConfigError::new(file, "scaling_factor", self.scaling_factor, "a number but 0 is needed"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn what_is_unsupported_is_named() {
        let error_of = |text: &str| VaeConfig::from_json("vae/config.json", text).unwrap_err().key;
        assert_eq!(error_of(r#"{"_class_name": "AutoencoderTiny"}"#), "_class_name");
        assert_eq!(error_of(r#"{"act_fn": "relu"}"#), "act_fn");
        assert_eq!(error_of(r#"{"block_out_channels": []}"#), "block_out_channels");
        assert_eq!(error_of(r#"{"block_out_channels": [48]}"#), "block_out_channels");
        assert_eq!(error_of(r#"{"down_block_types": ["AttnDownEncoderBlock2D"]}"#), "down_block_types");
        assert_eq!(error_of(r#"{"up_block_types": []}"#), "up_block_types");
        assert_eq!(error_of(r#"{"scaling_factor": 0}"#), "scaling_factor");
        assert_eq!(error_of(r#"{"latent_channels": -4}"#), "(file)");
    }

    #[test]
    fn scaling_there_and_back_is_the_identity() {
        let text = r#"{"scaling_factor": 1.5, "shift_factor": 0.25}"#;
        let config = VaeConfig::from_json("vae/config.json", text).unwrap();
        let latents = Tensor::new(&[3.0f32, -1.0], &Device::Cpu).unwrap();
        let own = config.to_vae_latents(&latents).unwrap();
        let close = |tensor: &Tensor, expected: [f32; 2]| {
            let found = tensor.to_vec1::<f32>().unwrap();
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6)
        };
        assert!(close(&own, [2.25, -0.416_666_67]));
        assert!(close(&config.to_denoiser_latents(&own).unwrap(), [3.0, -1.0]));
    }
}
