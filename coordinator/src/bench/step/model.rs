//! The denoisers that are timed at their full size, and a small one for trying.

use asyncdiff_common::wire::DType;
use asyncdiff_model::checkpoint::{StoredTensor, Weights, WeightsError};
use asyncdiff_model::families::DenoiserConfig;
use serde::Serialize;

use crate::bench::SimulatedModel;
use crate::bench::device::RepeatedWeights;
use crate::bench::model::{DENOISER, SCHEDULER};
use crate::model_store::{FormulaModel, ModelStore, StoreError};

/// Pixels of a picture for each of its latents, in each direction.
const PIXELS_PER_LATENT: u32 = 8;

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

    /// Width and height of a picture, in pixels.
    pub(in crate::bench) fn side(self) -> u32 {
        PIXELS_PER_LATENT
            * match self {
                Self::Sd21 => SimulatedModel::Sd21.latents_side(),
                Self::Sdxl => SimulatedModel::Sdxl.latents_side(),
                Self::Tiny => 32,
            }
    }

    /// For jobs: it takes conditions and gives latents.
    pub(in crate::bench) fn store(self) -> Result<ModelStore, StoreError> {
        let model = FormulaModel {
            name: self.title().to_owned(),
            denoiser_config: self.json().to_owned(),
            scheduler_config: SCHEDULER.to_owned(),
            seed: 0,
        };
        ModelStore::denoiser_alone(model, Box::new(StoredInHalf(RepeatedWeights::new())))
    }

    fn json(self) -> &'static str {
        match self {
            Self::Sd21 => SimulatedModel::Sd21.config(),
            Self::Sdxl => SimulatedModel::Sdxl.config(),
            Self::Tiny => DENOISER,
        }
    }
}

/// The same weights in two bytes each, as most checkpoints are stored: they are sent to workers.
struct StoredInHalf(RepeatedWeights);

impl Weights for StoredInHalf {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let values = self.0.values(name, shape).into_iter().flat_map(bf16_bytes);
        let shape = shape.iter().map(|&axis| axis as u32).collect();
        Ok(StoredTensor { dtype: DType::Bf16, shape, bytes: values.collect::<Vec<u8>>().into() })
    }

    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn source(&self) -> String {
        self.0.source()
    }
}

/// Cut off and not rounded: nobody asks what is computed.
fn bf16_bytes(value: f32) -> [u8; 2] {
    let [_, _, low, high] = value.to_le_bytes();
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configurations_size_is_that_of_its_pictures() {
        for model in StepModel::ALL {
            let side = model.side() / PIXELS_PER_LATENT;
            assert_eq!(model.config().unwrap().sample_size(), Some([side; 2]), "{model:?}");
        }
    }

    #[test]
    fn weights_stored_in_two_bytes_are_the_same_but_for_their_last_bits() {
        let weights = RepeatedWeights::new();
        let expected = weights.floats("a.weight", &[7, 9]).unwrap();
        let found = StoredInHalf(weights).floats("a.weight", &[7, 9]).unwrap();
        let close = |(one, other): (&f32, &f32)| (one - other).abs() <= one.abs() / 128.0;
        assert!(expected.len() == found.len() && expected.iter().zip(&found).all(close), "{found:?}");
    }
}
