//! The golden data of single parts, the demo model, and how far a tensor is from what it should be.
#![allow(clippy::unwrap_used, dead_code)]

use std::path::PathBuf;

use asyncdiff_model::checkpoint::{FormulaWeights, SafetensorsWeights, Weights};
use candle_core::{Device, Tensor};
use serde_json::Value;

/// The largest difference allowed, relative to the largest value: golden data is in single precision, and the same
/// mathematics in double precision differs by less than a tenth of this.
pub(crate) const TOLERANCE: f64 = 1e-4;

pub(crate) struct GoldenParts {
    pub(crate) index: Value,
    tensors: SafetensorsWeights,
}

impl GoldenParts {
    pub(crate) fn open() -> Self {
        let folder = repository().join("tests/golden/parts");
        let index = serde_json::from_str(&std::fs::read_to_string(folder.join("parts.json")).unwrap()).unwrap();
        Self { index, tensors: SafetensorsWeights::open(&folder.join("parts.safetensors")).unwrap() }
    }

    pub(crate) fn weights(&self) -> FormulaWeights {
        FormulaWeights { seed: self.seed() }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.index["seed"].as_u64().unwrap()
    }

    /// The configuration of a part as its `config.json` would hold it.
    pub(crate) fn config(&self, part: &str) -> String {
        let part = &self.index["parts"][part];
        let mut config = part["config"].clone();
        config["architectures"] = serde_json::json!([part["cls"]]);
        config.to_string()
    }

    /// Names and shapes of a part's parameters, sorted.
    pub(crate) fn parameters(&self, part: &str) -> Vec<(String, Vec<u32>)> {
        let parameters = self.index["parts"][part]["weights"].as_object().unwrap();
        let shape = |shape: &Value| serde_json::from_value(shape.clone()).unwrap();
        let mut parameters: Vec<_> = parameters.iter().map(|(name, axes)| (name.clone(), shape(axes))).collect();
        parameters.sort();
        parameters
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Tensor {
        self.tensors.tensor(name, shape, &Device::Cpu).unwrap()
    }

    pub(crate) fn token_ids(&self, name: &str, shape: [usize; 2]) -> Vec<Vec<u32>> {
        let stored = self.tensors.stored(name, &shape).unwrap();
        let ids: Vec<u32> =
            stored.bytes.chunks(8).map(|id| i64::from_le_bytes(id.try_into().unwrap()) as u32).collect();
        ids.chunks(shape[1]).map(<[u32]>::to_vec).collect()
    }
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The demo model's folder.
pub(crate) fn demo_model() -> PathBuf {
    repository().join("coordinator/demo-model/model")
}

/// The largest difference, relative to the largest expected value.
pub(crate) fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (values(found), values(expected));
    let difference = found.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let largest = expected.iter().map(|value| f64::from(value.abs())).fold(0.0, f64::max);
    assert!(found.iter().all(|value| value.is_finite()));
    difference / largest
}
