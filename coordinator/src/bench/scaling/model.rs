//! The models of the scaling benchmark: real sizes, and the published time of a real device; no weights.

use std::collections::BTreeMap;
use std::sync::Arc;

use asyncdiff_common::wire::DType;
use asyncdiff_model::checkpoint::{StoredTensor, Weights, WeightsError};
use asyncdiff_model::families::DenoiserShape;
use asyncdiff_plan::{InputKind, Program};
use bytes::Bytes;
use serde::Serialize;

use crate::bench::model::SCHEDULER;
use crate::job_spec::{ConditionTensor, Conditions};
use crate::model_store::{FormulaModel, ModelStore, StoreError};

/// Rows of the batch: the two guidance halves.
pub(super) const ROWS: u32 = 2;

/// Tokens of the encoder hidden states: what CLIP's text encoders give.
const TOKENS: u32 = 77;

/// Steps of the published times.
const PUBLISHED_STEPS: f64 = 50.0;

/// A denoiser with the time that one A5000 takes for it: 50 steps with guidance, as AsyncDiff's authors measured it (arXiv 2406.06911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum SimulatedModel {
    /// Stable Diffusion 2.1 at 768×768: 5.51 s.
    #[serde(rename = "sd21")]
    Sd21,
    /// Stable Diffusion XL at 1024×1024: 13.81 s.
    #[serde(rename = "sdxl")]
    Sdxl,
}

impl SimulatedModel {
    /// In the order of tables.
    pub const ALL: [Self; 2] = [Self::Sd21, Self::Sdxl];

    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sd21 => "sd21",
            Self::Sdxl => "sdxl",
        }
    }

    /// What it is called in full.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Sd21 => "Stable Diffusion 2.1, 768×768",
            Self::Sdxl => "Stable Diffusion XL, 1024×1024",
        }
    }

    /// Seconds that one A5000 takes for 50 steps.
    #[must_use]
    pub fn published_seconds(self) -> f64 {
        match self {
            Self::Sd21 => 5.51,
            Self::Sdxl => 13.81,
        }
    }

    /// Speed-ups that were measured with AsyncDiff's own code on A5000s with NVLink, 50 steps (arXiv 2406.06911): devices, stride, speed-up. A
    /// stride of 2 takes one device more than components.
    #[must_use]
    pub fn published_speed_ups(self) -> &'static [(u16, u32, f64)] {
        match self {
            Self::Sd21 => &[(2, 1, 1.8), (3, 1, 2.3), (4, 1, 2.6), (3, 2, 3.0), (4, 2, 4.0)],
            Self::Sdxl => &[(2, 1, 1.7), (3, 1, 2.4), (4, 1, 2.7), (3, 2, 2.8), (4, 2, 3.8)],
        }
    }

    /// Width and height of the latents.
    pub(in crate::bench) fn latents_side(self) -> u32 {
        match self {
            Self::Sd21 => 96,
            Self::Sdxl => 128,
        }
    }

    pub(in crate::bench) fn config(self) -> &'static str {
        match self {
            Self::Sd21 => include_str!("../unet_sd21.json"),
            Self::Sdxl => include_str!("../unet_sdxl.json"),
        }
    }

    pub(super) fn store(self) -> Result<ModelStore, StoreError> {
        let model = FormulaModel {
            name: self.title().to_owned(),
            denoiser_config: self.config().to_owned(),
            scheduler_config: SCHEDULER.to_owned(),
            seed: 0,
        };
        ModelStore::denoiser_alone(model, Box::new(NoWeights))
    }

    pub(super) fn program(self, store: &ModelStore) -> Result<Arc<Program>, StoreError> {
        let side = self.latents_side();
        let program = store.program(DenoiserShape { height: side, width: side, tokens: TOKENS })?;
        Ok(Arc::clone(&program.program))
    }

    /// Floating point operations per second at which the program takes the published time.
    pub(super) fn flops_per_second(self, program: &Program) -> f64 {
        flops_of(program, PUBLISHED_STEPS) / self.published_seconds()
    }
}

/// Operations of one device for so many steps; what depends on conditions alone is computed once.
pub(super) fn flops_of(program: &Program, steps: f64) -> f64 {
    let times = |layer| if program.is_constant(layer) { 1.0 } else { steps };
    program.layers().map(|(id, layer)| layer.flops as f64 * times(id)).sum::<f64>() * f64::from(ROWS)
}

/// What the program is conditioned on: zeros, for nothing is computed with them.
pub(super) fn conditions(program: &Program) -> Conditions {
    let tensors = program.inputs.iter().filter_map(|input| match &input.kind {
        InputKind::Condition(name) => {
            let shape: Vec<u32> = std::iter::once(ROWS).chain(input.value.shape.iter().copied()).collect();
            let elements = shape.iter().map(|&axis| axis as usize).product();
            Some((name.clone(), ConditionTensor { shape, values: vec![0.0; elements] }))
        }
        InputKind::Latents | InputKind::Timestep => None,
    });
    Conditions::Tensors(tensors.collect::<BTreeMap<_, _>>())
}

/// Parameters with names and shapes and without bytes: simulated devices ask for none, and hashing all of SDXL's would take longer than the benchmark.
struct NoWeights;

impl Weights for NoWeights {
    fn stored(&self, _name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let shape = shape.iter().map(|&axis| u32::try_from(axis).unwrap_or(u32::MAX)).collect();
        Ok(StoredTensor { dtype: DType::F16, shape, bytes: Bytes::new() })
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn source(&self) -> String {
        "nothing".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the real networks, by torch's count of operations for a batch of two.
    #[test]
    fn programs_have_the_operations_of_the_real_networks() {
        for (model, teraflops) in [(SimulatedModel::Sd21, 4.30), (SimulatedModel::Sdxl, 13.5)] {
            let program = model.program(&model.store().unwrap()).unwrap();
            let found = (flops_of(&program, 2.0) - flops_of(&program, 1.0)) / 1e12;
            assert!((found / teraflops - 1.0).abs() < 0.03, "{model:?}: {found} TFLOP per step");
        }
    }

    #[test]
    fn a_step_of_one_device_takes_the_published_time() {
        for model in SimulatedModel::ALL {
            let program = model.program(&model.store().unwrap()).unwrap();
            let seconds = flops_of(&program, 50.0) / model.flops_per_second(&program);
            assert!((seconds - model.published_seconds()).abs() < 1e-9, "{model:?}");
        }
    }

    #[test]
    fn every_condition_is_there() {
        let model = SimulatedModel::Sdxl;
        let Conditions::Tensors(tensors) = conditions(&model.program(&model.store().unwrap()).unwrap()) else {
            panic!("tensors are conditions here")
        };
        let shape = |name: &str| tensors[name].shape.clone();
        assert_eq!(shape("encoder_hidden_states"), [2, 77, 2048]);
        assert_eq!((shape("text_embeds"), shape("time_ids")), (vec![2, 1280], vec![2, 6]));
    }
}
