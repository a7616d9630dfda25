//! The database: with `disk.rs` the only place that knows redb.
//!
//! Everything is synchronous; [`JobWriter`](super::JobWriter) calls it where that may block.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_plan::{Epoch, JobId};
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    WriteTransaction,
};

use super::disk::{Disk, Place};
use super::envelope::{SCHEMA, unwrap};
use super::salvage::{self, Recovered};
use super::{Change, JobFiles, JobStoreError, KeptJob, Progress, StoredJob};

/// The file in a state directory.
const FILE: &str = "jobs.redb";

/// Memory for pages. Records are read when the coordinator starts and pictures when somebody fetches them.
const CACHE_BYTES: usize = 8 << 20;

const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
const JOBS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("jobs");
const PROGRESS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("progress");
const FILES: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("files");

const META_SCHEMA: &str = "schema";
/// How often the database was opened.
const META_GENERATION: &str = "generation";
const META_NEXT_JOB: &str = "next job";

/// All jobs on disk. The file is locked until this is dropped.
pub struct JobStore {
    place: Place,
    database: Database,
    generation: u64,
    next_job: JobId,
    /// Counts records that were written; see [`JobStore::revision`].
    written: u64,
}

/// An error of redb, by what is to be done about it.
enum Broken {
    Damaged(String),
    InUse,
    Io(String),
    NewerSchema(u64),
    Record(JobStoreError),
}

type Attempt<T> = Result<T, Broken>;

impl JobStore {
    /// Opens the database of a state directory, or makes it. Verifies all of it.
    pub fn open(folder: &Path) -> Result<Self, JobStoreError> {
        Self::open_file(folder.join(FILE))
    }

    /// The same, but a damaged file is moved aside, and what can be read of it is taken over. Says what became of it, if
    /// it was damaged.
    pub fn recover(folder: &Path) -> Result<(Self, Option<Recovered>), JobStoreError> {
        match Self::open(folder) {
            Ok(store) => Ok((store, None)),
            Err(JobStoreError::Damaged { path, reason, .. }) => {
                tracing::warn!(path = %path.display(), reason, "recovering jobs");
                let recovered = salvage::rebuild(&path)?;
                Ok((Self::open(folder)?, Some(recovered)))
            }
            Err(other) => Err(other),
        }
    }

    /// Opens the database of a disk that is not this computer's, or makes it where there are no bytes yet: for simulations.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Self, JobStoreError> {
        Self::open_at(Place::Disk(disk))
    }

    pub(super) fn open_file(path: PathBuf) -> Result<Self, JobStoreError> {
        Self::open_at(Place::File(path))
    }

    pub(super) fn open_at(place: Place) -> Result<Self, JobStoreError> {
        guarded(|| {
            if let Place::File(path) = &place {
                make_if_absent(path)?;
            }
            Self::try_open(place.clone())
        })
        .map_err(|broken| broken.at(place.path()))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// How often the database was opened, this time included: no two coordinators that ever had it have the same.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// An epoch that no earlier life of this coordinator has used, nor those that follow it: what is still on its way from a
    /// job's earlier placement is older.
    pub(crate) fn first_epoch(&self) -> Epoch {
        // A job has a million placements in one life, and a coordinator four thousand lives, before epochs come again.
        let life = (self.generation % (1 << 12)) as u32;
        Epoch((life << 20) | 1)
    }

    /// The first id that no job has had.
    pub(crate) fn next_job(&self) -> JobId {
        self.next_job
    }

    /// All jobs in the order in which they were submitted.
    pub(crate) fn load(&self) -> Result<Vec<KeptJob>, JobStoreError> {
        guarded(|| self.try_load()).map_err(|broken| broken.at(self.path()))
    }

    /// What a job left.
    pub(crate) fn files(&self, job: JobId) -> Result<Option<JobFiles>, JobStoreError> {
        guarded(|| {
            let files = self.database.begin_read()?.open_table(FILES)?;
            let Some(record) = files.get(job.0)? else { return Ok(None) };
            read(record.value(), JobFiles::from_payload).map(Some)
        })
        .map_err(|broken| broken.at(self.path()))
    }

    /// Writes changes: all of them or, after an error, none. When this returns they survive a crash.
    pub(crate) fn apply(&mut self, changes: &[Change]) -> Result<(), JobStoreError> {
        let (mut written, mut next_job) = (self.written, self.next_job);
        let applied = guarded(|| {
            let transaction = self.begin()?;
            for change in changes {
                written += 1;
                let revision = self.revision(written);
                if let Change::Updated(job) = change {
                    next_job = next_job.max(JobId(job.id().0.saturating_add(1)));
                }
                write(&transaction, change, revision)?;
            }
            transaction.open_table(META)?.insert(META_NEXT_JOB, next_job.0)?;
            transaction.commit()?;
            Ok(())
        });
        applied.map_err(|broken| broken.at(self.path()))?;
        (self.written, self.next_job) = (written, next_job);
        Ok(())
    }

    /// Sees to it that the next opening is of a later generation than those of another file.
    pub(super) fn outlive(&mut self, generation: u64) -> Result<(), JobStoreError> {
        let outlived = guarded(|| {
            let transaction = self.begin()?;
            transaction.open_table(META)?.insert(META_GENERATION, generation.max(self.generation))?;
            transaction.commit()?;
            Ok(())
        });
        outlived.map_err(|broken| broken.at(self.path()))
    }

    fn try_open(place: Place) -> Attempt<Self> {
        let mut builder = Database::builder();
        // A file that was altered since is found now and not in the middle of a job. It costs reading all of it.
        let database = place.open(builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true))?;
        let mut store = Self { place, database, generation: 0, next_job: JobId(1), written: 0 };
        let transaction = store.begin()?;
        {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(META_SCHEMA)?.map(|schema| schema.value());
            if let Some(found) = found.filter(|&found| found > u64::from(SCHEMA)) {
                return Err(Broken::NewerSchema(found));
            }
            meta.insert(META_SCHEMA, u64::from(SCHEMA))?;
            store.generation = meta.get(META_GENERATION)?.map_or(0, |number| number.value()).saturating_add(1);
            meta.insert(META_GENERATION, store.generation)?;
            // Job 0 is what belongs to no job.
            store.next_job = JobId(meta.get(META_NEXT_JOB)?.map_or(1, |number| number.value()));
            for table in [JOBS, PROGRESS, FILES] {
                transaction.open_table(table)?;
            }
        }
        transaction.commit()?;
        Ok(store)
    }

    fn try_load(&self) -> Attempt<Vec<KeptJob>> {
        let transaction = self.database.begin_read()?;
        let (jobs, progress) = (transaction.open_table(JOBS)?, transaction.open_table(PROGRESS)?);
        let files = transaction.open_table(FILES)?;
        let mut found = Vec::new();
        for entry in jobs.iter()? {
            let (id, record) = entry?;
            let job = read(record.value(), StoredJob::from_payload)?;
            let progress = match progress.get(id.value())? {
                Some(record) if !job.has_ended() => Some(read(record.value(), Progress::from_payload)?),
                _ => None,
            };
            let file_bytes = files.get(id.value())?.map_or(0, |record| record.value().len() as u64);
            found.push(KeptJob { job, progress, file_bytes });
        }
        Ok(found)
    }

    fn begin(&self) -> Attempt<WriteTransaction> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate).map_err(|error| Broken::Io(error.to_string()))?;
        // One phase would do after a crash. But with it a damaged commit is taken for one that a crash interrupted, and the
        // one before it is used without a word: a job that somebody was told of would be gone.
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    /// Grows over the life of the file, so that of two records that salvage finds the newer one is known.
    fn revision(&self, written: u64) -> u64 {
        (self.generation << 32) | (written & u64::from(u32::MAX))
    }
}

/// A new file gets its name when it is whole: one that is there and empty was emptied, and is not taken for a new one.
fn make_if_absent(path: &Path) -> Attempt<()> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() == 0 => return Err(Broken::Damaged("it is empty".to_owned())),
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Broken::Io(error.to_string())),
    }
    let unfinished = path.with_extension("redb.unfinished");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Broken::Io(error.to_string())),
        _ => {}
    }
    drop(JobStore::try_open(Place::File(unfinished.clone()))?);
    sync_rename(&unfinished, path).map_err(|error| Broken::Io(error.to_string()))
}

/// Renames so that a crash of the machine leaves the old name or the new one.
pub(super) fn sync_rename(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::rename(from, to)?;
    match to.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn write(transaction: &WriteTransaction, change: &Change, revision: u64) -> Attempt<()> {
    let put = |table, job: JobId, record: Result<Vec<u8>, JobStoreError>| -> Attempt<()> {
        transaction.open_table(table)?.insert(job.0, record.map_err(Broken::Record)?.as_slice())?;
        Ok(())
    };
    let remove = |table: TableDefinition<'static, u64, &'static [u8]>, job: JobId| -> Attempt<()> {
        transaction.open_table(table)?.remove(job.0)?;
        Ok(())
    };
    match change {
        Change::Ended(job, files) => {
            put(JOBS, job.id(), job.to_record(revision))?;
            remove(PROGRESS, job.id())?;
            if *files == JobFiles::default() {
                return Ok(());
            }
            put(FILES, job.id(), files.to_record(job.id(), revision))
        }
        Change::Progressed(job, progress) => put(PROGRESS, *job, progress.to_record(*job, revision)),
        Change::Removed(jobs) => {
            for &job in jobs {
                [JOBS, PROGRESS, FILES].into_iter().try_for_each(|table| remove(table, job))?;
            }
            Ok(())
        }
        Change::Updated(job) => put(JOBS, job.id(), job.to_record(revision)),
    }
}

fn read<T>(record: &[u8], decode: impl FnOnce(&[u8]) -> Result<T, String>) -> Attempt<T> {
    let Some((_, payload)) = unwrap(record) else {
        return Err(Broken::Damaged("the digest of a record is wrong".to_owned()));
    };
    decode(payload).map_err(|reason| Broken::Damaged(format!("a record cannot be read: {reason}")))
}

/// redb asserts what its checksums have verified; what they did not is an error of the file and no end of the process.
fn guarded<T>(work: impl FnOnce() -> Attempt<T>) -> Attempt<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Broken::Damaged("the database panicked".to_owned())))
}

impl Broken {
    fn at(self, path: &Path) -> JobStoreError {
        let path = path.to_owned();
        match self {
            Self::Damaged(reason) => {
                let readable = salvage::count(&path);
                JobStoreError::Damaged { path, reason, readable }
            }
            Self::InUse => JobStoreError::InUse { path },
            Self::Io(reason) => JobStoreError::Io { path, reason },
            Self::NewerSchema(found) => JobStoreError::NewerSchema { path, found, known: u64::from(SCHEMA) },
            Self::Record(error) => error,
        }
    }
}

impl From<DatabaseError> for Broken {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse,
            DatabaseError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<StorageError> for Broken {
    fn from(error: StorageError) -> Self {
        match error {
            // A file that ends too early is damaged; a disk that refuses is not the file's fault.
            StorageError::Io(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Self::Damaged(error.to_string())
            }
            StorageError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Self::Damaged(error.to_string())
            }
            StorageError::Corrupted(reason) => Self::Damaged(reason),
            other => Self::Io(other.to_string()),
        }
    }
}

macro_rules! by_storage {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Broken {
            fn from(error: redb::$error) -> Self {
                match error {
                    redb::$error::Storage(error) => error.into(),
                    other => Self::Damaged(other.to_string()),
                }
            }
        })*
    };
}

by_storage!(CommitError, TableError, TransactionError);
