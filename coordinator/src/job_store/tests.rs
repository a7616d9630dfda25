//! What is written is read again, whatever happens to the file in between: all of it, or an error that says what can be saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use asyncdiff_plan::{Epoch, JobId};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::job::{JobRecord, JobRequest, JobSettings, JobState, JobTimes};

/// Another one with `ASYNCDIFF_TEST_SEED`.
const SEED: u64 = 20_260_101;

/// Each takes several syncs of the disk.
const DAMAGES: usize = 200;

fn job(id: u64, state: JobState) -> StoredJob {
    let request = JobRequest {
        prompt: format!("picture {id}"),
        negative_prompt: String::new(),
        settings: JobSettings::default(),
    };
    let record = JobRecord {
        id: JobId(id),
        request,
        times: JobTimes { submitted: 1_700_000_000 + id, ..JobTimes::default() },
        state,
        phase: String::new(),
        progress: (0, 50),
        warnings: Vec::new(),
        recoveries: Vec::new(),
        moves: Vec::new(),
        error: None,
        summary: None,
    };
    StoredJob {
        record,
        model: "a model".to_owned(),
        key: None,
        workers: vec!["gpu-box".to_owned()],
        starts: Starts::default(),
    }
}

fn progress(steps: u32) -> Progress {
    Progress { epoch: Epoch(3), steps, state: vec![steps as u8; 5000].into() }
}

fn files(id: u64) -> JobFiles {
    JobFiles { picture: Some(Bytes::from(vec![id as u8; 20_000])), trace: None }
}

fn update(id: u64, state: JobState) -> Change {
    Change::Updated(Box::new(job(id, state)))
}

/// A file with jobs of every kind: 1 is done, 2 runs, 3 waits, 4 failed, 5 was removed.
fn filled(folder: &Path) -> Vec<KeptJob> {
    let mut store = JobStore::open(folder).unwrap();
    for id in 1..=5 {
        store.apply(&[update(id, JobState::Queued)]).unwrap();
    }
    store.apply(&[update(2, JobState::Running), Change::Progressed(JobId(2), progress(4))]).unwrap();
    store.apply(&[Change::Ended(Box::new(job(1, JobState::Done)), files(1))]).unwrap();
    store.apply(&[Change::Ended(Box::new(job(4, JobState::Failed)), JobFiles::default())]).unwrap();
    store.apply(&[Change::Progressed(JobId(2), progress(9)), Change::Removed(vec![JobId(5)])]).unwrap();
    store.load().unwrap()
}

fn file_of(folder: &Path) -> PathBuf {
    folder.join("jobs.redb")
}

fn seed() -> u64 {
    let seed = std::env::var("ASYNCDIFF_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("ASYNCDIFF_TEST_SEED={seed}");
    seed
}

#[test]
fn everything_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let before = filled(folder.path());
    let states: Vec<_> = before.iter().map(|kept| kept.job.record.state).collect();
    assert_eq!(states, [JobState::Done, JobState::Running, JobState::Queued, JobState::Failed]);
    assert_eq!(before[1].progress, Some(progress(9)));
    let store = JobStore::open(folder.path()).unwrap();
    assert_eq!(store.load().unwrap(), before);
    assert_eq!(store.files(JobId(1)).unwrap(), Some(files(1)));
    assert_eq!(store.files(JobId(4)).unwrap(), None);
}

#[test]
fn ids_and_generations_never_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = JobStore::open(folder.path()).unwrap();
    let first = store.generation();
    assert_eq!(store.next_job(), JobId(1));
    store.apply(&[update(7, JobState::Queued), Change::Removed(vec![JobId(7)])]).unwrap();
    drop(store);
    let store = JobStore::open(folder.path()).unwrap();
    assert_eq!((store.generation(), store.next_job()), (first + 1, JobId(8)));
}

#[test]
fn starts_are_counted_until_a_job_gets_further() {
    let starts = Starts::default().again(0).again(0).again(0);
    assert_eq!((starts.count, starts.again(0).count), (3, 4));
    assert_eq!((starts.again(5).count, starts.again(5).again(5).count), (1, 2));
    // What was saved last may be lost.
    assert_eq!(starts.again(5).again(4).count, 2);
}

#[test]
fn only_one_process_may_have_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let _store = JobStore::open(folder.path()).unwrap();
    assert!(matches!(JobStore::open(folder.path()), Err(JobStoreError::InUse { .. })));
}

#[test]
fn a_trace_and_a_picture_are_read_as_they_were_written() {
    let folder = tempfile::tempdir().unwrap();
    let track = crate::TraceTrack { name: "coordinator".to_owned(), rank: None, events: Vec::new() };
    let trace = crate::JobTrace { tracks: vec![track], layers: vec!["conv_in".to_owned()] };
    let both = JobFiles { trace: Some(trace), ..files(1) };
    let mut store = JobStore::open(folder.path()).unwrap();
    store.apply(&[Change::Ended(Box::new(job(1, JobState::Done)), both.clone())]).unwrap();
    assert_eq!(store.files(JobId(1)).unwrap(), Some(both));
}

#[test]
fn a_file_that_is_no_database_is_an_error_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(file_of(folder.path()), "nonsense").unwrap();
    let error = JobStore::open(folder.path()).err().unwrap();
    assert!(matches!(error, JobStoreError::Damaged { readable: 0, .. }), "{error}");
    assert!(error.to_string().contains("--recover-jobs"), "{error}");
    assert_eq!(std::fs::read(file_of(folder.path())).unwrap(), b"nonsense");
}

/// Damages a copy of a file: flips bits of some bytes, overwrites a stretch, cuts it, or all of these.
fn damage(chance: &mut StdRng, content: &mut Vec<u8>) -> String {
    // Pages that are in use lie at the beginning; half of the damages hit the header.
    let kind = chance.random_range(0..4);
    let reach = if chance.random_bool(0.3) { 512 } else { content.len() };
    let at = chance.random_range(0..reach);
    match kind {
        0 => content.truncate(at),
        1 => content[at] ^= 1 << chance.random_range(0..8),
        2 => {
            let end = (at + chance.random_range(1..9000)).min(content.len());
            content[at..end].fill(chance.random());
        }
        _ => {
            for _flip in 0..40 {
                let at = chance.random_range(0..content.len());
                content[at] = chance.random();
            }
        }
    }
    format!("damage {kind} at {at}")
}

/// What jobs look like in any of the states that were ever written.
fn is_true(kept: &KeptJob) -> bool {
    let known = |state| job(kept.job.record.id.0, state) == kept.job;
    let progress_is_true = kept.progress.as_ref().is_none_or(|found| *found == progress(4) || *found == progress(9));
    [JobState::Queued, JobState::Running, JobState::Done, JobState::Failed].into_iter().any(known) && progress_is_true
}

#[test]
fn a_damaged_file_gives_its_jobs_or_an_error_and_what_is_saved_of_it_is_true() {
    let mut chance = StdRng::seed_from_u64(seed());
    let original = tempfile::tempdir().unwrap();
    let before = filled(original.path());
    let content = std::fs::read(file_of(original.path())).unwrap();
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for number in 0..DAMAGES {
        let mut damaged = content.clone();
        let what = format!("{number}: {}", damage(&mut chance, &mut damaged));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(file_of(folder.path()), &damaged).unwrap();
        let outcome = match JobStore::open(folder.path()).and_then(|store| Ok((store.load()?, store.files(JobId(1))?)))
        {
            Ok((jobs, found)) => {
                assert_eq!(jobs, before, "{what}");
                assert_eq!(found, Some(files(1)), "{what}");
                "nothing is lost"
            }
            Err(JobStoreError::Damaged { readable, .. }) => {
                check_recovery(&folder, readable, &what);
                "damage is found"
            }
            Err(error) => panic!("{what}: {error}"),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{outcomes:?}");
    assert!(outcomes["damage is found"] > DAMAGES / 4, "{outcomes:?}");
}

fn check_recovery(folder: &TempDir, readable: usize, what: &str) {
    let (store, recovered) = JobStore::recover(folder.path()).unwrap();
    let recovered = recovered.unwrap();
    let jobs = store.load().unwrap();
    assert!(jobs.iter().all(is_true), "{what}: {jobs:?}");
    assert_eq!((recovered.jobs, jobs.len()), (readable, readable), "{what}");
    assert!(recovered.moved_to.exists(), "{what}");
    assert!(jobs.iter().all(|kept| store.next_job() > kept.job.record.id), "{what}");
    let picture = store.files(JobId(1)).unwrap();
    assert!(picture.is_none_or(|found| found == files(1)), "{what}");
}

#[test]
fn a_lost_header_loses_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let before = filled(folder.path());
    let generation = JobStore::open(folder.path()).unwrap().generation();
    let mut content = std::fs::read(file_of(folder.path())).unwrap();
    content[..512].fill(0);
    std::fs::write(file_of(folder.path()), content).unwrap();
    assert!(matches!(JobStore::open(folder.path()), Err(JobStoreError::Damaged { readable: 4.., .. })));
    let (store, recovered) = JobStore::recover(folder.path()).unwrap();
    assert!(recovered.is_some());
    // One that was removed may be found again.
    let found = store.load().unwrap();
    assert!(before.iter().all(|kept| found.contains(kept)), "{found:?}");
    // The life that only looked wrote nothing, and used no epochs.
    assert!(store.generation() >= generation, "epochs of before would come again");
}
