//! A checkpoint on this machine: its parameters are used where they are equal, byte for byte, to what the coordinator lists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use asyncdiff_common::wire::WeightEntry;
use asyncdiff_model::checkpoint::{Checkpoint, SafetensorsWeights, StoredTensor, Weights};

use crate::error::WorkerError;

/// The checkpoint that `--model` names.
pub(crate) struct LocalCheckpoint {
    checkpoint: Checkpoint,
    /// By folder; `None` where the checkpoint has no such folder.
    parts: Mutex<HashMap<String, Option<Arc<SafetensorsWeights>>>>,
}

impl LocalCheckpoint {
    /// Opens it. May read files and, for a hub id, the network.
    pub(crate) fn open(model: &str) -> Result<Self, WorkerError> {
        let failed = |error: asyncdiff_model::checkpoint::CheckpointError| WorkerError::LocalCheckpoint {
            model: model.to_owned(),
            reason: error.to_string(),
        };
        Ok(Self { checkpoint: Checkpoint::open(model).map_err(failed)?, parts: Mutex::default() })
    }

    /// The parameter of a folder, if it is there with the same bytes. Reads and hashes it.
    pub(crate) fn find(&self, folder: &str, entry: &WeightEntry) -> Option<StoredTensor> {
        let weights = self.part(folder)?;
        let shape: Vec<usize> = entry.shape.iter().map(|&axis| axis as usize).collect();
        let stored = weights.stored(&entry.name, &shape).ok()?;
        (stored.dtype == entry.dtype && stored.digest() == entry.digest).then_some(stored)
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
