//! One sub-folder of a checkpoint: its configuration, its parameters, and their digests as far as anybody asked for
//! them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use asyncdiff_common::wire::{PartSpec, WeightEntry};
use asyncdiff_model::checkpoint::{StoredTensor, Weights};
use asyncdiff_plan::WeightSpec;

use super::StoreError;

pub(super) struct Part {
    folder: &'static str,
    config: String,
    weights: Box<dyn Weights>,
    /// All parameters of the part; the denoiser's are listed by its program instead.
    specs: Vec<WeightSpec>,
    /// Bounded by the number of the checkpoint's parameters.
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    by_name: HashMap<String, WeightEntry>,
    by_digest: HashMap<[u8; 32], WeightSpec>,
}

impl Part {
    pub(super) fn new(folder: &'static str, config: String, weights: Box<dyn Weights>, specs: Vec<WeightSpec>) -> Self {
        Self { folder, config, weights, specs, index: Mutex::default() }
    }

    pub(super) fn config(&self) -> &str {
        &self.config
    }

    pub(super) fn weights(&self) -> &dyn Weights {
        self.weights.as_ref()
    }

    /// The part with all its parameters, as a worker is told of it.
    pub(super) fn spec(&self) -> Result<PartSpec, StoreError> {
        let weights = self.specs.iter().map(|spec| self.entry(spec)).collect::<Result<_, _>>()?;
        Ok(PartSpec { folder: self.folder.to_owned(), config: self.config.clone(), weights })
    }

    /// A parameter with the digest of its stored bytes, which is computed on first use: hashing all of a large
    /// checkpoint takes seconds, and a job needs the digests of what it assigns.
    pub(super) fn entry(&self, spec: &WeightSpec) -> Result<WeightEntry, StoreError> {
        if let Some(entry) = self.index().by_name.get(&spec.name) {
            return Ok(entry.clone());
        }
        let stored = self.read(spec)?;
        let digest = stored.digest();
        let entry = WeightEntry { name: spec.name.clone(), shape: stored.shape, dtype: stored.dtype, digest };
        let mut index = self.index();
        index.by_digest.insert(digest, spec.clone());
        index.by_name.insert(spec.name.clone(), entry.clone());
        Ok(entry)
    }

    /// The stored bytes behind a digest, if an entry of this part has it.
    pub(super) fn stored(&self, digest: &[u8; 32]) -> Result<Option<StoredTensor>, StoreError> {
        let spec = self.index().by_digest.get(digest).cloned();
        spec.map(|spec| self.read(&spec)).transpose()
    }

    fn read(&self, spec: &WeightSpec) -> Result<StoredTensor, StoreError> {
        let shape: Vec<usize> = spec.shape.iter().map(|&axis| axis as usize).collect();
        Ok(self.weights.stored(&spec.name, &shape)?)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // A panic while it was held leaves complete entries.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
