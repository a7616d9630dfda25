//! The denoisers that are timed at their full size, and a small one for trying.

use asyncdiff_model::families::DenoiserConfig;
use serde::Serialize;

use crate::bench::SimulatedModel;
use crate::bench::model::DENOISER;

/// A denoiser at a size, with weights that only their time is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepModel {
    /// The UNet of Stable Diffusion 2.1 for 768×768 pixels.
    Sd21,
    /// The UNet of Stable Diffusion XL for 1024×1024 pixels.
    Sdxl,
    /// A UNet of 64/128/256/256 channels for 256×256 pixels: a CPU takes a fraction of a second for it.
    Tiny,
}

impl StepModel {
    /// In the order of tables.
    pub const ALL: [Self; 3] = [Self::Sd21, Self::Sdxl, Self::Tiny];

    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd21 => "sd21",
            Self::Sdxl => "sdxl",
            Self::Tiny => "tiny",
        }
    }

    /// What it is called in full.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Sd21 => SimulatedModel::Sd21.title(),
            Self::Sdxl => SimulatedModel::Sdxl.title(),
            Self::Tiny => "UNet 64/128/256/256, 256×256",
        }
    }

    pub(super) fn config(self) -> anyhow::Result<DenoiserConfig> {
        Ok(DenoiserConfig::from_json(self.json())?)
    }

    fn json(self) -> &'static str {
        match self {
            Self::Sd21 => SimulatedModel::Sd21.config(),
            Self::Sdxl => SimulatedModel::Sdxl.config(),
            Self::Tiny => DENOISER,
        }
    }
}
