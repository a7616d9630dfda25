//! What this machine has, for this worker and for others that ask.

use std::sync::Arc;

use asyncdiff_common::wire::{HELD_WEIGHTS_LIMIT, WantedWeight, WeightEntry};
use asyncdiff_model::checkpoint::StoredTensor;
use asyncdiff_transport::weights::WeightSource;
use bytes::Bytes;

use super::{LocalCheckpoint, WeightCache};
use crate::intake::Digest;

/// A checkpoint and a cache, where there are any.
#[derive(Clone, Default)]
pub(crate) struct LocalWeights {
    pub(crate) checkpoint: Option<Arc<LocalCheckpoint>>,
    pub(crate) cache: Option<Arc<WeightCache>>,
}

impl LocalWeights {
    pub(super) fn find(&self, folder: &str, entry: &WeightEntry) -> Option<StoredTensor> {
        let in_checkpoint = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.find(folder, entry));
        in_checkpoint.or_else(|| self.cache.as_ref().and_then(|cache| cache.find(&entry.into())))
    }

    /// Whether there is anything at all.
    pub(super) fn is_none(&self) -> bool {
        self.checkpoint.is_none() && self.cache.is_none()
    }

    /// What can be sent to others: what was found in the checkpoint so far, and what is in the cache. Reads folders.
    pub(crate) fn inventory(&self) -> Vec<Digest> {
        let mut digests = self.checkpoint.as_ref().map(|checkpoint| checkpoint.found()).unwrap_or_default();
        digests.truncate(HELD_WEIGHTS_LIMIT);
        let room = HELD_WEIGHTS_LIMIT - digests.len();
        digests.extend(self.cache.iter().flat_map(|cache| cache.newest(room)));
        digests
    }
}

impl WeightSource for LocalWeights {
    /// What has another digest is not sent, so that a damaged disk is found here and not by those who ask.
    fn read(&self, wanted: &WantedWeight) -> Result<Bytes, String> {
        let in_checkpoint = self.checkpoint.as_ref().and_then(|checkpoint| checkpoint.read(wanted));
        let in_cache = || self.cache.as_ref().and_then(|cache| cache.find(wanted)).map(|stored| stored.bytes);
        in_checkpoint.or_else(in_cache).ok_or_else(|| "it is not here".to_owned())
    }
}
