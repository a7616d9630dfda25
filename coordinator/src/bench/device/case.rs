//! The models that are timed, by the names that `tests/bench/torch_device.py` has for them too.

use anyhow::Context;
use asyncdiff_model::families::DenoiserConfig;
use asyncdiff_model::text_encoder::ClipTextConfig;
use asyncdiff_model::vae::VaeConfig;

use crate::bench::model::DENOISER;
use crate::model_store::demo_checkpoint;

/// A model at a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// The text encoder of Stable Diffusion 1.5: 77 tokens, two prompts.
    ClipSd15,
    /// The UNet of `bench pipeline`: 64/128/256/256 channels at 32×32 latents, batch 2.
    UnetBench,
    /// The demo model's UNet at its own size, batch 2.
    UnetDemo,
    /// The UNet of Stable Diffusion 1.5 at 64×64 latents, batch 2.
    UnetSd15,
    /// The decoder of its autoencoder, to 512×512 pixels.
    VaeDecode512,
}

/// What a case is made of.
pub(super) enum CaseConfig {
    /// One step of a UNet.
    Denoiser(DenoiserConfig),
    /// A text encoder.
    TextEncoder(ClipTextConfig),
    /// The decoder of an autoencoder.
    VaeDecoder(VaeConfig),
}

/// That of Stable Diffusion 1.5, but for keys that change nothing here.
const UNET_SD15: &str = include_str!("../unet_sd15.json");

/// Its autoencoder.
const VAE_SD15: &str = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "latent_channels": 4, "norm_num_groups": 32, "scaling_factor": 0.18215}"#;

/// Its text encoder.
const CLIP_SD15: &str = r#"{"architectures": ["CLIPTextModel"], "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
    "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}"#;

impl Case {
    /// In the order of tables.
    pub const ALL: [Self; 5] = [Self::UnetBench, Self::UnetDemo, Self::UnetSd15, Self::VaeDecode512, Self::ClipSd15];

    /// Its name in options and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClipSd15 => "clip-sd15",
            Self::UnetBench => "unet-bench",
            Self::UnetDemo => "unet-demo",
            Self::UnetSd15 => "unet-sd15",
            Self::VaeDecode512 => "vae-decode-512",
        }
    }

    pub(super) fn config(self) -> anyhow::Result<CaseConfig> {
        Ok(match self {
            Self::ClipSd15 => {
                CaseConfig::TextEncoder(ClipTextConfig::from_json("text_encoder/config.json", CLIP_SD15)?)
            }
            Self::UnetBench => CaseConfig::Denoiser(DenoiserConfig::from_json(DENOISER)?),
            Self::UnetDemo => CaseConfig::Denoiser(DenoiserConfig::from_json(&demo_unet_config()?)?),
            Self::UnetSd15 => CaseConfig::Denoiser(DenoiserConfig::from_json(UNET_SD15)?),
            Self::VaeDecode512 => CaseConfig::VaeDecoder(VaeConfig::from_json("vae/config.json", VAE_SD15)?),
        })
    }
}

/// The demo model's UNet, which PyTorch is given too; an error in a build without the demo model.
pub(super) fn demo_unet_config() -> anyhow::Result<String> {
    demo_checkpoint()?.text("unet/config.json").context("the demo model has no unet/config.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_configuration_and_a_name_of_its_own() {
        let mut names: Vec<&str> = Case::ALL.iter().map(|case| case.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Case::ALL.len());
        let demo_absent = !cfg!(feature = "demo-model");
        for case in Case::ALL {
            assert!(case.config().is_ok() || (demo_absent && case == Case::UnetDemo), "{}", case.name());
        }
    }
}
