//! A folder of golden data: configuration, parameters and inputs by formula, and what diffusers computed from them.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use asyncdiff_model::checkpoint::FormulaWeights;
use asyncdiff_model::component::{Component, Condition, evaluate};
use asyncdiff_model::families::{DenoiserConfig, DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES, build};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::LayerId;
use candle_core::{Device, Tensor};
use serde_json::Value;

/// The families whose runs are here.
pub(crate) const FAMILIES: [&str; 3] = ["sd15", "sd21", "sdxl"];

/// What the names of added conditions begin with among the tensors.
const ADDED: &str = "seq/kw/added_cond_kwargs.";

/// One family's folder.
pub(crate) struct Golden {
    folder: PathBuf,
    /// `runs.json`.
    pub(crate) runs: Value,
    tensors: HashMap<String, Tensor>,
}

impl Golden {
    pub(crate) fn open(family: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(family);
        let runs = serde_json::from_str(&std::fs::read_to_string(folder.join("runs.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(folder.join("runs.safetensors"), &Device::Cpu).unwrap();
        Self { folder, runs, tensors }
    }

    pub(crate) fn text(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.join(file)).unwrap()
    }

    pub(crate) fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub(crate) fn seed(&self) -> u64 {
        self.runs["seed"].as_u64().unwrap()
    }

    pub(crate) fn dim(&self, name: &str) -> u32 {
        u32::try_from(self.runs["dims"][name].as_u64().unwrap()).unwrap()
    }

    pub(crate) fn config(&self) -> DenoiserConfig {
        DenoiserConfig::from_json(&self.text("unet/config.json")).unwrap()
    }

    pub(crate) fn shape(&self) -> DenoiserShape {
        DenoiserShape { height: self.dim("h"), width: self.dim("w"), tokens: self.dim("tokens") }
    }

    pub(crate) fn program(&self) -> DenoiserProgram {
        build(&self.config(), &self.shape()).unwrap()
    }

    pub(crate) fn weights(&self) -> FormulaWeights {
        FormulaWeights { seed: self.seed() }
    }

    pub(crate) fn parameters(&self) -> BTreeMap<String, Vec<u32>> {
        serde_json::from_value(self.runs["parameters"]["unet"].clone()).unwrap()
    }

    pub(crate) fn input(&self, key: &str, shape: &[usize]) -> Tensor {
        Tensor::from_vec(formula::input(key, shape, self.seed()), shape, &Device::Cpu).unwrap()
    }

    /// `[2, tokens, width]`, the unconditional half first.
    pub(crate) fn encoder_hidden_states(&self) -> Tensor {
        let shape = [1, self.dim("tokens") as usize, self.dim("cross") as usize];
        let halves = [self.input("negative_prompt_embeds", &shape), self.input("prompt_embeds", &shape)];
        Tensor::cat(&halves, 0).unwrap()
    }

    /// All that the denoiser is conditioned on, by the argument's name; the unconditional rows come first.
    pub(crate) fn conditions(&self) -> Vec<(&str, Tensor)> {
        let added = self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(ADDED)?, tensor.clone())));
        added.chain([(ENCODER_HIDDEN_STATES, self.encoder_hidden_states())]).collect()
    }

    /// A condition of [`Self::conditions`].
    pub(crate) fn condition(&self, wanted: &str) -> Tensor {
        self.conditions().into_iter().find(|(name, _)| *name == wanted).unwrap().1
    }

    /// The noise prediction for two rows.
    pub(crate) fn evaluate(&self, component: &Component, latents: &Tensor, timestep: f64) -> Tensor {
        let conditions = self.conditions();
        let conditions: Vec<Condition<'_>> = conditions.iter().map(|(name, tensor)| (*name, tensor)).collect();
        evaluate(component, latents, timestep, &conditions).unwrap()
    }

    /// `[1, channels, height, width]`
    pub(crate) fn latents(&self) -> Tensor {
        self.input("latents", &[1, 4, self.dim("h") as usize, self.dim("w") as usize])
    }
}

/// A component of these layers on the CPU.
pub(crate) fn load(program: &DenoiserProgram, golden: &Golden, owned: &[LayerId]) -> Component {
    Component::load(program, owned, &golden.weights(), &Kernels::for_device(&Device::Cpu)).unwrap()
}

/// A component of all layers on the CPU.
pub(crate) fn load_whole(program: &DenoiserProgram, golden: &Golden) -> Component {
    let owned: Vec<LayerId> = program.program.owned_layers().map(|(id, _)| id).collect();
    load(program, golden, &owned)
}

pub(crate) fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest absolute difference over largest absolute value, the golden data's measure.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest =
        |values: &mut dyn Iterator<Item = f32>| values.fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(found.iter().all(|value| value.is_finite()));
    largest(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / largest(&mut expected.iter().copied())
}
