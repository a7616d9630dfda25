//! Getting the parameters that an assignment or a request lists.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use asyncdiff_common::wire::{
    DType, HELD_WEIGHTS_LIMIT, ToCoordinator, WEIGHTS_IN_FLIGHT, WeightEntry, WorkerFailure, byte_count,
};
use asyncdiff_model::checkpoint::StoredTensor;
use asyncdiff_plan::JobId;
use bytes::Bytes;

use super::LocalWeights;
use crate::actors::SessionRef;
use crate::intake::{Digest, Intake};

/// Where parameters come from.
#[derive(Clone)]
pub(crate) struct Collector {
    pub(crate) intake: Arc<Intake>,
    pub(crate) session: SessionRef,
    pub(crate) local: LocalWeights,
    /// At which part of a list this worker begins. Those who want the same at the same time begin at different ones, and have the others of
    /// each other.
    pub(crate) beginning: u64,
}

impl Collector {
    /// Gets the parameters of a checkpoint's folder, each checked by its digest.
    pub(crate) async fn collect(
        &self,
        job: JobId,
        folder: &str,
        entries: Vec<WeightEntry>,
    ) -> Result<HashMap<String, StoredTensor>, WorkerFailure> {
        check_entries(&entries)?;
        let mut found = self.find_locally(folder, &entries).await?;
        let mut known: HashSet<Digest> = HashSet::new();
        let missing = entries.iter().filter(|entry| !found.contains_key(&entry.name));
        // Equal parameters, such as biases of zeros, are asked for once.
        let wanted: Vec<WeightEntry> = missing.filter(|entry| known.insert(entry.digest)).cloned().collect();
        let mut by_digest: HashMap<Digest, Bytes> = HashMap::with_capacity(wanted.len());
        self.tell_held(entries.iter().filter(|entry| found.contains_key(&entry.name)));
        let mut batches = batches(&wanted);
        let beginning = self.beginning.checked_rem(batches.len() as u64).unwrap_or_default();
        batches.rotate_left(beginning as usize);
        for batch in batches {
            self.transfer(job, batch, &mut by_digest).await?;
            self.tell_held(batch.iter());
        }
        for entry in entries {
            if let Some(bytes) = by_digest.get(&entry.digest) {
                let tensor = StoredTensor { dtype: entry.dtype, shape: entry.shape, bytes: bytes.clone() };
                found.entry(entry.name).or_insert(tensor);
            }
        }
        Ok(found)
    }

    async fn find_locally(
        &self,
        folder: &str,
        entries: &[WeightEntry],
    ) -> Result<HashMap<String, StoredTensor>, WorkerFailure> {
        let local = self.local.clone();
        if local.is_none() {
            return Ok(HashMap::new());
        }
        let (folder, entries) = (folder.to_owned(), entries.to_vec());
        let find = move || {
            let find = |entry: WeightEntry| local.find(&folder, &entry).map(|tensor| (entry.name, tensor));
            entries.into_iter().filter_map(find).collect()
        };
        // Reading and hashing gigabytes must not hold up the actors.
        let found = tokio::task::spawn_blocking(find).await;
        found.map_err(|error| WorkerFailure::Panicked { message: error.to_string() })
    }

    /// Tells the coordinator what others can have of this worker.
    fn tell_held<'a>(&self, entries: impl Iterator<Item = &'a WeightEntry>) {
        let digests: Vec<_> = entries.map(|entry| entry.digest).take(HELD_WEIGHTS_LIMIT).collect();
        if !self.local.is_none() && !digests.is_empty() {
            self.session.send(ToCoordinator::HoldsWeights { digests });
        }
    }
}

/// Refuses lists that contradict themselves before anything is asked for.
fn check_entries(entries: &[WeightEntry]) -> Result<(), WorkerFailure> {
    let mut names = HashSet::with_capacity(entries.len());
    for entry in entries {
        let bad = |reason: &str| WorkerFailure::BadWeight { name: entry.name.clone(), reason: reason.to_owned() };
        if !names.insert(entry.name.as_str()) {
            return Err(bad("it is listed twice"));
        }
        if entry.dtype == DType::U8 {
            return Err(bad("its elements are bytes, which is no type of a parameter"));
        }
        if entry_bytes(entry).is_none() {
            return Err(bad("its shape overflows"));
        }
    }
    Ok(())
}

fn entry_bytes(entry: &WeightEntry) -> Option<u64> {
    byte_count(&entry.shape, entry.dtype)
}

/// Neighbours of at most [`WEIGHTS_IN_FLIGHT`] bytes together, or one larger parameter alone.
fn batches(entries: &[WeightEntry]) -> Vec<&[WeightEntry]> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, entry) in entries.iter().enumerate() {
        let more = entry_bytes(entry).unwrap_or(u64::MAX);
        if index > start && bytes.saturating_add(more) > WEIGHTS_IN_FLIGHT {
            batches.push(&entries[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(more);
    }
    if start < entries.len() {
        batches.push(&entries[start..]);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, mebibytes: u32) -> WeightEntry {
        WeightEntry {
            name: name.into(),
            shape: vec![mebibytes << 18],
            dtype: DType::F32,
            digest: [mebibytes as u8; 32],
        }
    }

    #[test]
    fn batches_are_bounded_and_a_large_parameter_travels_alone() {
        let entries = [entry("a", 15), entry("b", 15), entry("c", 15), entry("d", 200), entry("e", 1)];
        let names: Vec<String> =
            batches(&entries).iter().map(|batch| batch.iter().map(|entry| entry.name.as_str()).collect()).collect();
        assert_eq!(names, ["ab", "c", "d", "e"]);
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn a_list_that_contradicts_itself_is_refused() {
        let overflowing = WeightEntry { shape: vec![u32::MAX; 4], ..entry("a", 1) };
        for entries in [vec![entry("a", 1), entry("a", 1)], vec![overflowing]] {
            assert!(matches!(check_entries(&entries), Err(WorkerFailure::BadWeight { .. })));
        }
    }
}
