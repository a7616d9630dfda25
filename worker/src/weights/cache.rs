//! Parameters on this machine's disk, by the digest of their bytes: what was received once is not asked for again, by this worker
//! or another one of the same user.
//!
//! A file appears whole, under its digest, and is believed when its bytes have it: a torn or altered one is removed and asked for
//! again. So nothing is synced, and several processes share the folder without a lock. When the files take more than the limit, those that
//! were not read for the longest time go. A cache that does not work costs transfers and no job.

use std::collections::HashMap;
use std::fs::{File, FileTimes};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use asyncdiff_common::wire::WantedWeight;
use asyncdiff_model::checkpoint::StoredTensor;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::intake::Digest;

/// Parameters that wait to be written. They are in memory anyway until their component is loaded; a full queue slows the transfer down
/// to the speed of the disk.
const WAITING: usize = 256;

/// After this share of the limit was written, the files are counted and the oldest removed. Several workers that share a folder may exceed
/// the limit by it each.
const CHECK_EVERY: u64 = 16;

/// What is kept of the limit when files are removed, in sixteenths, so that not every write removes one.
const KEPT_SIXTEENTHS: u64 = 14;

/// A file that was begun this long ago was left by a process that ended.
const LEFT_OVER: Duration = Duration::from_secs(3600);

/// How a file is called while it is written.
const UNFINISHED: &str = "unfinished-";

/// The cache, with a thread that writes.
#[derive(Debug)]
pub(crate) struct WeightCache {
    folder: PathBuf,
    writer: mpsc::Sender<(Digest, Bytes)>,
    waiting: Arc<Waiting>,
}

/// Parameters that wait to be written, which others may ask for already. Those that are in the queue, so bounded by it.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<Digest, Bytes>>);

impl WeightCache {
    /// A cache of at most about `limit_bytes` in a folder, which is made.
    pub(crate) fn open(folder: PathBuf, limit_bytes: u64) -> io::Result<Arc<Self>> {
        std::fs::create_dir_all(&folder)?;
        let (writer, waiting) = mpsc::channel(WAITING);
        let shelf = Shelf { folder: folder.clone(), limit_bytes, written_bytes: u64::MAX };
        let unwritten = Arc::new(Waiting::default());
        let written = Arc::clone(&unwritten);
        // It ends when the cache is dropped.
        std::thread::Builder::new().name("weight-cache".to_owned()).spawn(move || shelf.run(waiting, &written))?;
        Ok(Arc::new(Self { folder, writer, waiting: unwritten }))
    }

    /// A parameter, if it is there with the right bytes. Reads and hashes it.
    pub(crate) fn find(&self, entry: &WantedWeight) -> Option<StoredTensor> {
        let stored = |bytes| StoredTensor { dtype: entry.dtype, shape: entry.shape.clone(), bytes };
        let unwritten = self.waiting.map().get(&entry.digest).cloned();
        if let Some(bytes) = unwritten {
            // Checked when it was kept.
            return (entry.byte_count() == Some(bytes.len() as u64)).then(|| stored(bytes));
        }
        let path = path_of(&self.folder, &entry.digest);
        let bytes = match read(&path, entry.byte_count()?) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "a parameter cannot be read from the cache");
                return None;
            }
        };
        if bytes.as_ref().is_none_or(|bytes| *blake3::hash(bytes).as_bytes() != entry.digest) {
            tracing::warn!(path = %path.display(), "a parameter in the cache is damaged and is asked for again");
            // If it cannot be removed it is found damaged the next time.
            drop(std::fs::remove_file(&path));
            return None;
        }
        Some(stored(bytes?.into()))
    }

    /// Keeps a parameter whose digest has been checked. Waits while many are being written.
    pub(crate) async fn keep(&self, digest: Digest, bytes: Bytes) {
        // The thread ends only by a panic; then nothing is kept.
        let Ok(room) = self.writer.reserve().await else { return };
        self.waiting.map().insert(digest, bytes.clone());
        room.send((digest, bytes));
    }

    /// The digests of the files that were used last, newest first. Reads the folder; whether they hold what they should shows when they are
    /// read.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Digest> {
        let shelf = Shelf { folder: self.folder.clone(), limit_bytes: 0, written_bytes: 0 };
        let mut kept = shelf.files().unwrap_or_else(|error| {
            tracing::debug!(folder = %self.folder.display(), %error, "the cache of parameters cannot be listed");
            Vec::new()
        });
        kept.sort_by_key(|file| std::cmp::Reverse(file.used));
        kept.iter().filter_map(|file| digest_of(&file.path)).take(limit).collect()
    }
}

impl Waiting {
    fn map(&self) -> MutexGuard<'_, HashMap<Digest, Bytes>> {
        // Changed by single map operations only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a file of the expected length; none if it has another one.
fn read(path: &Path, expected: u64) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.len() != expected {
        return Ok(None);
    }
    // When it was read last is what eviction goes by. Whose file it is matters not at all.
    drop(file.set_times(FileTimes::new().set_modified(SystemTime::now())));
    let mut bytes = Vec::with_capacity(usize::try_from(expected).map_err(io::Error::other)?);
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A folder for each first byte: 256 of some files each.
fn path_of(folder: &Path, digest: &Digest) -> PathBuf {
    let name = blake3::Hash::from_bytes(*digest).to_hex();
    folder.join(&name[..2]).join(&name[2..])
}

/// The digest that a file's path stands for.
fn digest_of(path: &Path) -> Option<Digest> {
    let (folder, file) = (path.parent()?.file_name()?.to_str()?, path.file_name()?.to_str()?);
    Some(*blake3::Hash::from_hex(format!("{folder}{file}")).ok()?.as_bytes())
}

/// The writing side.
struct Shelf {
    folder: PathBuf,
    limit_bytes: u64,
    /// Since the files were counted.
    written_bytes: u64,
}

/// A file of the cache.
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Shelf {
    fn run(mut self, mut waiting: mpsc::Receiver<(Digest, Bytes)>, unwritten: &Waiting) {
        let mut has_warned = false;
        while let Some((digest, bytes)) = waiting.blocking_recv() {
            if let Err(error) = self.put(&digest, &bytes)
                && !std::mem::replace(&mut has_warned, true)
            {
                tracing::warn!(folder = %self.folder.display(), %error, "the cache of parameters cannot be written");
            }
            unwritten.map().remove(&digest);
        }
    }

    fn put(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let length = bytes.len() as u64;
        let path = path_of(&self.folder, digest);
        if length > self.limit_bytes / CHECK_EVERY * KEPT_SIXTEENTHS || path.exists() {
            return Ok(());
        }
        self.make_room(length)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let written = || -> io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&unfinished, bytes)?;
            std::fs::rename(&unfinished, &path)
        };
        let result = written();
        if result.is_err() {
            // A full disk is not made fuller. What cannot be removed now is left over and removed later.
            drop(std::fs::remove_file(&unfinished));
        }
        result
    }

    /// Removes what was not used for the longest time, if `more` bytes might exceed the limit.
    fn make_room(&mut self, more: u64) -> io::Result<()> {
        self.written_bytes = self.written_bytes.saturating_add(more);
        if self.written_bytes < self.limit_bytes / CHECK_EVERY {
            return Ok(());
        }
        let mut kept = self.files()?;
        let mut total: u64 = kept.iter().map(|file| file.bytes).sum();
        self.written_bytes = more;
        if total.saturating_add(more) <= self.limit_bytes {
            return Ok(());
        }
        kept.sort_by_key(|file| file.used);
        for file in kept {
            if total.saturating_add(more) <= self.limit_bytes / CHECK_EVERY * KEPT_SIXTEENTHS {
                break;
            }
            match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                // Another process may have removed it.
                _ => total = total.saturating_sub(file.bytes),
            }
        }
        Ok(())
    }

    /// All files that are whole. Removes what ended processes left.
    fn files(&self) -> io::Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                for file in std::fs::read_dir(entry.path())? {
                    kept.extend(describe(&file?.path()));
                }
            } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let age = describe(&entry.path()).and_then(|file| file.used.elapsed().ok());
                if age.is_some_and(|age| age > LEFT_OVER) {
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(kept)
    }
}

/// None if another process has removed it.
fn describe(path: &Path) -> Option<Kept> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Kept { path: path.to_owned(), bytes: metadata.len(), used: metadata.modified().ok()? })
}

#[cfg(test)]
mod tests {
    use asyncdiff_common::wire::DType;

    use super::*;

    fn parameter(number: u8, bytes: usize) -> (WantedWeight, Bytes) {
        let content = Bytes::from(vec![number; bytes]);
        let digest = *blake3::hash(&content).as_bytes();
        let shape = vec![u32::try_from(bytes / 4).unwrap()];
        (WantedWeight { shape, dtype: DType::F32, digest }, content)
    }

    fn shelf(folder: &Path, limit_bytes: u64) -> Shelf {
        Shelf { folder: folder.to_owned(), limit_bytes, written_bytes: u64::MAX }
    }

    fn cache(folder: &Path) -> Arc<WeightCache> {
        WeightCache::open(folder.to_owned(), 1 << 20).unwrap()
    }

    #[test]
    fn what_was_kept_is_found_with_its_bytes_by_another_process_too() {
        let folder = tempfile::tempdir().unwrap();
        let (entry, bytes) = parameter(1, 400);
        shelf(folder.path(), 1 << 20).put(&entry.digest, &bytes).unwrap();
        let found = cache(folder.path()).find(&entry).unwrap();
        assert_eq!((found.bytes, found.dtype, found.shape), (bytes, DType::F32, vec![100]));
        assert_eq!(cache(folder.path()).find(&parameter(2, 400).0), None);
    }

    #[test]
    fn a_torn_or_altered_file_is_removed_and_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (entry, bytes) = parameter(1, 400);
        let path = path_of(folder.path(), &entry.digest);
        for damaged in [bytes.slice(..200), Bytes::new(), vec![7; 400].into(), vec![1; 404].into()] {
            shelf(folder.path(), 1 << 20).put(&entry.digest, &bytes).unwrap();
            std::fs::write(&path, &damaged).unwrap();
            assert_eq!(cache(folder.path()).find(&entry), None);
            assert!(!path.exists());
        }
    }

    #[test]
    fn the_limit_holds_and_what_was_read_lately_stays() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 16_000;
        let mut shelf = shelf(folder.path(), limit);
        let cache = cache(folder.path());
        let (used, bytes) = parameter(0, 1000);
        shelf.put(&used.digest, &bytes).unwrap();
        for number in 1..100 {
            let (entry, bytes) = parameter(number, 1000);
            shelf.put(&entry.digest, &bytes).unwrap();
            // Clocks of file systems tick in milliseconds: older files are made so.
            let old = SystemTime::now() - Duration::from_secs(1000 - u64::from(number));
            let file = File::options().write(true).open(path_of(folder.path(), &entry.digest)).unwrap();
            file.set_times(FileTimes::new().set_modified(old)).unwrap();
            assert!(cache.find(&used).is_some(), "after {number}");
            let total: u64 = shelf.files().unwrap().iter().map(|file| file.bytes).sum();
            assert!(total <= limit, "{total} bytes after {number}");
        }
        assert!(cache.find(&parameter(99, 1000).0).is_some());
        assert!(cache.find(&parameter(1, 1000).0).is_none());
    }

    #[test]
    fn the_newest_files_are_listed_first_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = shelf(folder.path(), 1 << 20);
        let digests: Vec<Digest> = (0..3).map(|number| parameter(number, 100).0.digest).collect();
        for (number, digest) in (0..3).zip(&digests) {
            shelf.put(digest, &parameter(number, 100).1).unwrap();
            let file = File::options().write(true).open(path_of(folder.path(), digest)).unwrap();
            let age = Duration::from_secs(100 - u64::from(number));
            file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
        }
        std::fs::create_dir(folder.path().join("other")).unwrap();
        std::fs::write(folder.path().join("other/file"), "no parameter").unwrap();
        assert_eq!(cache(folder.path()).newest(2), [digests[2], digests[1]]);
    }

    #[test]
    fn a_parameter_larger_than_the_cache_drives_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let mut shelf = shelf(folder.path(), 4000);
        let (small, bytes) = parameter(1, 1000);
        shelf.put(&small.digest, &bytes).unwrap();
        let (large, bytes) = parameter(2, 8000);
        shelf.put(&large.digest, &bytes).unwrap();
        assert!(cache(folder.path()).find(&small).is_some() && cache(folder.path()).find(&large).is_none());
    }

    #[test]
    fn what_an_ended_process_left_is_removed_and_what_is_being_written_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["unfinished-1-1", "unfinished-2-1"].map(|name| folder.path().join(name));
        for path in [&old, &new] {
            std::fs::write(path, "half").unwrap();
        }
        let long_ago = FileTimes::new().set_modified(SystemTime::now() - 2 * LEFT_OVER);
        File::options().write(true).open(&old).unwrap().set_times(long_ago).unwrap();
        assert!(shelf(folder.path(), 4000).files().unwrap().is_empty());
        assert!(!old.exists() && new.exists());
    }

    #[tokio::test]
    async fn many_processes_that_keep_the_same_do_each_other_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let caches: Vec<_> = (0..4).map(|_| cache(folder.path())).collect();
        for number in 0..50 {
            let (entry, bytes) = parameter(number, 2000);
            for cache in &caches {
                cache.keep(entry.digest, bytes.clone()).await;
            }
        }
        drop(caches);
        let reader = cache(folder.path());
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        let mut found = 0;
        // The threads write what they have after the caches are gone.
        while found < 50 {
            found = (0..50).filter(|&number| reader.find(&parameter(number, 2000).0).is_some()).count();
            assert!(std::time::Instant::now() < deadline, "{found} were written");
        }
    }
}
