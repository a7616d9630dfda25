//! What benchmarks make pictures with: the demo model; a UNet of 64/128/256/256 channels, whose weights follow from a formula, with conditions
//! without meaning; and the same with fewer channels.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use asyncdiff_model::formula;
use asyncdiff_plan::Wishes;

use super::Case;
use crate::job::JobSettings;
use crate::job_spec::{ConditionTensor, Conditions, InitialLatents, JobSpec, Product};
use crate::model_store::{FormulaModel, ModelStore, StoreError, demo_checkpoint};

/// The UNet: the topology of SD 2.1 at 64/128/256/256 channels.
pub(super) const DENOISER: &str = include_str!("unet_64_128_256_256.json");

/// Its noise scheduler; what a step of it costs is far below what can be measured here.
pub(super) const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1}"#;

/// Width and height in pixels: latents of 32 × 32.
const SIDE: u32 = 256;

/// Shape of the encoder hidden states: the two guidance halves, tokens, width.
const CONDITION: [u32; 3] = [2, 77, 256];

/// Guidance is on: a batch of two rows.
pub(super) const GUIDANCE_SCALE: f64 = 7.5;

/// What the demo model is asked for.
pub(super) const PROMPT: &str = "a red circle on a white background";

/// Channels of every level of the thin UNet: as few as its group norms have groups.
const THIN_CHANNELS: [u32; 4] = [32; 4];

/// A model that a benchmark makes latents with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BenchModel {
    /// The demo model at its own size, with its text encoder.
    Demo,
    /// The UNet of 64/128/256/256 channels at 32×32 latents.
    Unet,
}

impl BenchModel {
    /// In the order of tables.
    pub const ALL: [Self; 2] = [Self::Unet, Self::Demo];

    /// Its name in options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Unet => "unet",
        }
    }

    /// With its weights; an error in a build without the demo model, if it is that.
    pub(super) fn store(self) -> Result<ModelStore, StoreError> {
        match self {
            Self::Demo => ModelStore::open(&demo_checkpoint()?),
            Self::Unet => formula_store("UNet 64/128/256/256", DENOISER.to_owned()),
        }
    }

    /// Settings of a job for it.
    pub(super) fn settings(self, steps: NonZeroU32, wishes: &Wishes) -> JobSettings {
        let size = match self {
            Self::Demo => None,
            Self::Unet => Some((SIDE, SIDE)),
        };
        JobSettings { steps, guidance_scale: GUIDANCE_SCALE, size, wishes: wishes.clone(), ..JobSettings::default() }
    }

    /// A job for it, from noise to latents.
    pub(super) fn job(self, settings: JobSettings) -> JobSpec {
        let conditions = match self {
            Self::Demo => Conditions::Prompt { prompt: PROMPT.to_owned(), negative: String::new() },
            Self::Unet => made_up_conditions(),
        };
        JobSpec { conditions, latents: InitialLatents::Seed(0), settings, product: Product::Latents }
    }

    /// What `bench device` and PyTorch call its denoiser.
    pub(super) fn denoiser_case(self) -> Case {
        match self {
            Self::Demo => Case::UnetDemo,
            Self::Unet => Case::UnetBench,
        }
    }
}

/// [`BenchModel::Unet`] with few channels: its hidden states are small, so that a machine can carry those of many workers.
pub(super) fn thin_store() -> anyhow::Result<ModelStore> {
    let mut config: serde_json::Value = serde_json::from_str(DENOISER)?;
    config["block_out_channels"] = THIN_CHANNELS.as_slice().into();
    Ok(formula_store("UNet of 32 channels", config.to_string())?)
}

fn formula_store(name: &str, denoiser_config: String) -> Result<ModelStore, StoreError> {
    let (name, scheduler_config) = (name.to_owned(), SCHEDULER.to_owned());
    ModelStore::formula(FormulaModel { name, denoiser_config, scheduler_config, seed: 1 })
}

/// Conditions without meaning.
fn made_up_conditions() -> Conditions {
    let shape: Vec<usize> = CONDITION.iter().map(|&axis| axis as usize).collect();
    let values = formula::input("prompt_embeds", &shape, 1);
    let condition = ConditionTensor { shape: CONDITION.to_vec(), values };
    Conditions::Tensors(BTreeMap::from([("encoder_hidden_states".to_owned(), condition)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thin_unet_has_a_layer_for_every_worker_and_few_of_the_others_operations() {
        let settings = BenchModel::Unet.settings(NonZeroU32::MIN, &Wishes::default());
        let of = |store: &ModelStore| {
            let program = store.planning_setup(&settings).unwrap().program;
            let layers = program.program.layers.iter();
            (layers.len(), layers.map(|layer| layer.flops).sum::<u64>())
        };
        let ((_, flops), (layers, thin_flops)) = (of(&BenchModel::Unet.store().unwrap()), of(&thin_store().unwrap()));
        assert!(layers >= 64 && thin_flops < flops / 4, "{layers} layers, {thin_flops} of {flops}");
    }
}
