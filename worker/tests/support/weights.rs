//! Parameters that a fake coordinator serves.

use std::collections::HashMap;

use asyncdiff_common::wire::{PartSpec, WeightEntry};
use asyncdiff_model::checkpoint::{StoredTensor, Weights};
use asyncdiff_plan::{LayerId, Program, WeightSpec};

/// Stored tensors by digest.
#[derive(Default)]
pub(crate) struct WeightStore {
    tensors: HashMap<[u8; 32], StoredTensor>,
}

impl WeightStore {
    /// Lists the parameters of layers and of the shared layers that they need, and keeps them to be served.
    pub(crate) fn list(&mut self, program: &Program, layers: &[LayerId], weights: &dyn Weights) -> Vec<WeightEntry> {
        let mut names = std::collections::HashSet::new();
        let specs = program.with_shared(layers).into_iter().flat_map(|layer| program.layer(layer).weights.clone());
        specs.filter(|spec| names.insert(spec.name.clone())).map(|spec| self.entry(&spec, weights)).collect()
    }

    /// A text encoder or VAE of a checkpoint.
    pub(crate) fn part(
        &mut self,
        folder: &str,
        config: String,
        specs: &[WeightSpec],
        weights: &dyn Weights,
    ) -> PartSpec {
        let weights = specs.iter().map(|spec| self.entry(spec, weights)).collect();
        PartSpec { folder: folder.to_owned(), config, weights }
    }

    pub(crate) fn get(&self, digest: &[u8; 32]) -> StoredTensor {
        self.tensors[digest].clone()
    }

    /// Serves other bytes for a digest.
    pub(crate) fn corrupt(&mut self, digest: [u8; 32]) {
        let mut stored = self.get(&digest);
        let mut bytes = stored.bytes.to_vec();
        bytes[0] ^= 1;
        stored.bytes = bytes.into();
        self.tensors.insert(digest, stored);
    }

    fn entry(&mut self, spec: &WeightSpec, weights: &dyn Weights) -> WeightEntry {
        let shape: Vec<usize> = spec.shape.iter().map(|&axis| axis as usize).collect();
        let stored = weights.stored(&spec.name, &shape).unwrap();
        let digest = stored.digest();
        let entry = WeightEntry { name: spec.name.clone(), shape: stored.shape.clone(), dtype: stored.dtype, digest };
        self.tensors.insert(digest, stored);
        entry
    }
}
