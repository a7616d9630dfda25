//! Parameters that are in no file: made by a formula, or received from a coordinator.

use std::collections::HashMap;

use super::{StoredTensor, Weights, WeightsError};
use crate::formula;

/// Parameters by the formula of the golden data: they follow from name, shape and seed, so nothing is stored.
#[derive(Clone, Copy, Debug)]
pub struct FormulaWeights {
    /// The formula's seed.
    pub seed: u64,
}

impl Weights for FormulaWeights {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let axes = shape.iter().map(|&axis| axis as u32).collect();
        Ok(StoredTensor::from_f32(axes, &formula::weight(name, shape, self.seed)))
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn source(&self) -> String {
        format!("formula with seed {}", self.seed)
    }
}

/// Parameters held in memory, such as those that a worker received.
#[derive(Clone, Debug, Default)]
pub struct MapWeights {
    tensors: HashMap<String, StoredTensor>,
}

impl MapWeights {
    /// Adds a parameter, or replaces the one of that name.
    pub fn insert(&mut self, name: impl Into<String>, tensor: StoredTensor) {
        self.tensors.insert(name.into(), tensor);
    }
}

impl FromIterator<(String, StoredTensor)> for MapWeights {
    fn from_iter<I: IntoIterator<Item = (String, StoredTensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect() }
    }
}

impl Weights for MapWeights {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let missing = || WeightsError::Missing { source_name: self.source(), name: name.to_owned() };
        let tensor = self.tensors.get(name).cloned().ok_or_else(missing)?;
        tensor.checked(name, &self.source(), shape)
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn source(&self) -> String {
        "the weights received from the coordinator".to_owned()
    }
}
