//! What can be saved of a damaged file: records are found by how they begin and believed by their digests, wherever they
//! lie.
//!
//! A file holds older versions of records too, and those of jobs that were removed. The newest whole one of each job
//! counts, so after a salvage an old job may be there again, or a job be at an earlier state; no record is ever made up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use asyncdiff_plan::JobId;

use super::database::sync_rename;
use super::envelope::{HEADER_BYTES, Header, Kind, MAGIC, unwrap};
use super::{Change, JobFiles, JobStore, JobStoreError, Progress, StoredJob};

/// Bytes that are searched at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What became of a damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the damaged file is now.
    pub moved_to: PathBuf,
    /// Jobs that were taken over.
    pub jobs: usize,
    /// Jobs that were seen, and whose own record is lost: their results or progress alone are of no use.
    pub lost: usize,
}

/// Where the newest whole record of each kind and job is.
#[derive(Default)]
struct Findings(BTreeMap<(JobId, Kind), Found>);

#[derive(Clone, Copy)]
struct Found {
    offset: u64,
    header: Header,
}

/// How many jobs can be read of a file.
pub(super) fn count(path: &Path) -> usize {
    let findings = File::open(path).and_then(|file| Findings::search(&file));
    findings.map_or(0, |findings| findings.jobs().count())
}

/// Makes a new file of what can be read, moves the damaged one aside and puts the new one in its place. A crash in between
/// leaves the damaged file where it was, or aside and the new one beside it.
pub(super) fn rebuild(path: &Path) -> Result<Recovered, JobStoreError> {
    let failed = |error: io::Error| JobStoreError::Io { path: path.to_owned(), reason: error.to_string() };
    let damaged = File::open(path).map_err(failed)?;
    let findings = Findings::search(&damaged).map_err(failed)?;
    let fresh = path.with_extension("redb.new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut store = JobStore::open_file(fresh.clone())?;
    let mut jobs = 0;
    for job in findings.jobs() {
        let Some(changes) = findings.changes(&damaged, job).map_err(failed)? else { continue };
        store.apply(&changes)?;
        jobs += 1;
    }
    store.outlive(findings.generation())?;
    drop(store);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let moved_to = path.with_extension(format!("redb.damaged-{seconds}"));
    sync_rename(path, &moved_to).map_err(failed)?;
    sync_rename(&fresh, path).map_err(failed)?;
    Ok(Recovered { moved_to, jobs, lost: findings.seen() - jobs })
}

impl Findings {
    fn search(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut findings = Self::default();
        let mut window = vec![0; WINDOW_BYTES + HEADER_BYTES];
        let mut start = 0;
        while start < length {
            let wanted = usize::try_from(length - start).unwrap_or(usize::MAX).min(window.len());
            file.read_exact_at(&mut window[..wanted], start)?;
            // A header that begins in the last bytes of a window is whole in the next.
            for at in (0..wanted.min(WINDOW_BYTES)).filter(|&at| window[at..wanted].starts_with(&MAGIC)) {
                if let Some(header) = Header::read(&window[at..wanted]) {
                    findings.consider(file, Found { offset: start + at as u64, header }, length)?;
                }
            }
            start += WINDOW_BYTES as u64;
        }
        Ok(findings)
    }

    fn consider(&mut self, file: &File, found: Found, length: u64) -> io::Result<()> {
        let key = (found.header.job, found.header.kind);
        let is_newer = self.0.get(&key).is_none_or(|known| known.header.revision < found.header.revision);
        let fits = found.offset.saturating_add(found.header.record_bytes() as u64) <= length;
        if is_newer && fits && unwrap(&found.read(file)?).is_some() {
            self.0.insert(key, found);
        }
        Ok(())
    }

    fn jobs(&self) -> impl Iterator<Item = JobId> {
        self.0.keys().filter(|(_, kind)| *kind == Kind::Job).map(|(job, _)| *job)
    }

    fn seen(&self) -> usize {
        let mut jobs: Vec<JobId> = self.0.keys().map(|(job, _)| *job).collect();
        jobs.dedup();
        jobs.len()
    }

    fn generation(&self) -> u64 {
        self.0.values().map(|found| found.header.revision >> 32).max().unwrap_or(0)
    }

    /// What writes a job anew; none if its record is of a schema that cannot be read after all.
    fn changes(&self, file: &File, job: JobId) -> io::Result<Option<Vec<Change>>> {
        let Some(stored) = self.payload(file, job, Kind::Job, StoredJob::from_payload)? else { return Ok(None) };
        let mut changes = vec![Change::Updated(Box::new(stored.clone()))];
        if stored.has_ended() {
            let files = self.payload(file, job, Kind::Files, JobFiles::from_payload)?;
            changes.push(Change::Ended(Box::new(stored), files.unwrap_or_default()));
        } else if let Some(progress) = self.payload(file, job, Kind::Progress, Progress::from_payload)? {
            changes.push(Change::Progressed(job, progress));
        }
        Ok(Some(changes))
    }

    fn payload<T>(
        &self,
        file: &File,
        job: JobId,
        kind: Kind,
        decode: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> io::Result<Option<T>> {
        let Some(found) = self.0.get(&(job, kind)) else { return Ok(None) };
        let record = found.read(file)?;
        Ok(unwrap(&record).and_then(|(_, payload)| decode(payload).ok()))
    }
}

impl Found {
    fn read(&self, file: &File) -> io::Result<Vec<u8>> {
        let mut record = vec![0; self.header.record_bytes()];
        file.read_exact_at(&mut record, self.offset)?;
        Ok(record)
    }
}
