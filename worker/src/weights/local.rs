//! A checkpoint on this machine: its parameters are used where they are equal, byte for byte, to what the coordinator lists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use asyncdiff_common::wire::{WantedWeight, WeightEntry};
use asyncdiff_model::checkpoint::{Checkpoint, SafetensorsWeights, StoredTensor, Weights};

use bytes::Bytes;

use crate::error::WorkerError;
use crate::intake::Digest;

/// The checkpoint that `--model` names.
pub(crate) struct LocalCheckpoint {
    checkpoint: Checkpoint,
    /// By folder; `None` where the checkpoint has no such folder.
    parts: Mutex<HashMap<String, Option<Arc<SafetensorsWeights>>>>,
    /// Where parameters were found: others ask by digest. Bounded by the checkpoint's parameters.
    found: Mutex<HashMap<Digest, (String, String)>>,
}

impl LocalCheckpoint {
    /// Opens it. May read files and, for a hub id, the network.
    pub(crate) fn open(model: &str) -> Result<Self, WorkerError> {
        let failed = |error: asyncdiff_model::checkpoint::CheckpointError| WorkerError::LocalCheckpoint {
            model: model.to_owned(),
            reason: error.to_string(),
        };
        Ok(Self {
            checkpoint: Checkpoint::open(model).map_err(failed)?,
            parts: Mutex::default(),
            found: Mutex::default(),
        })
    }

    /// The parameter of a folder, if it is there with the same bytes. Reads and hashes it.
    pub(crate) fn find(&self, folder: &str, entry: &WeightEntry) -> Option<StoredTensor> {
        let weights = self.part(folder)?;
        let shape: Vec<usize> = entry.shape.iter().map(|&axis| axis as usize).collect();
        let stored = weights.stored(&entry.name, &shape).ok()?;
        if stored.dtype != entry.dtype || stored.digest() != entry.digest {
            return None;
        }
        self.places().insert(entry.digest, (folder.to_owned(), entry.name.clone()));
        Some(stored)
    }

    /// A parameter that was found before, for somebody else. Reads, hashes and copies it.
    pub(crate) fn read(&self, wanted: &WantedWeight) -> Option<Bytes> {
        let (folder, name) = self.places().get(&wanted.digest).cloned()?;
        let WantedWeight { digest, shape, dtype } = wanted.clone();
        let stored = self.find(&folder, &WeightEntry { name, shape, dtype, digest })?;
        // Pages of a mapped file would make the network's thread wait for the disk.
        Some(Bytes::copy_from_slice(&stored.bytes))
    }

    /// What was found so far.
    pub(crate) fn found(&self) -> Vec<Digest> {
        self.places().keys().copied().collect()
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Digest, (String, String)>> {
        // Changed by single map operations only.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, folder: &str) -> Option<Arc<SafetensorsWeights>> {
        // A map entry is written whole; a panic while opening leaves none.
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = parts.entry(folder.to_owned()).or_insert_with(|| match self.checkpoint.weights(folder) {
            Ok(weights) => Some(Arc::new(weights)),
            Err(error) => {
                tracing::warn!(folder, %error, "not in the local checkpoint; the coordinator will send it");
                None
            }
        });
        opened.clone()
    }
}
