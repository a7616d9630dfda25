//! A worker that is started again has what it received before, and no more than that.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use asyncdiff_common::wire::{WorkerReply, WorkerRequest};
use asyncdiff_plan::{CutShape, JobId, Rank};
use asyncdiff_transport::network::SimulatedNetwork;
use asyncdiff_worker::{CacheConfig, WorkerConfig};
use support::denoiser::{TinyJob, schedule};
use support::fake_coordinator::FakeCoordinator;
use support::{TestWorker, simulated};

/// How many parameters a fresh worker with this cache asks for, for the whole tiny denoiser.
async fn asked(folder: &Path) -> usize {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let cache = Some(CacheConfig { folder: folder.to_owned(), limit_bytes: 1 << 30 });
    let _process = TestWorker::start(&hub, "w0", WorkerConfig { cache, ..simulated() });
    let worker = coordinator.welcome().await;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    let assignment = job.assignment(&mut coordinator, JobId(7), Rank(0), std::slice::from_ref(&worker));
    let answer = coordinator.request(&worker, WorkerRequest::Assign(Box::new(assignment))).await;
    assert!(matches!(answer, Ok(WorkerReply::Assigned { .. })), "{answer:?}");
    coordinator.asked_weights
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

/// The cache is written while the worker goes on.
fn wait_for_files(folder: &Path, count: usize) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = files(folder);
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < deadline, "{} of {count} were written", found.len());
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn a_worker_asks_for_what_the_cache_lacks_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let all = asked(folder.path()).await;
    assert!(all > 10, "{all}");
    let cached = wait_for_files(folder.path(), all);
    assert_eq!(asked(folder.path()).await, 0);
    // As after a transfer that was interrupted, and a disk that lost some bytes.
    std::fs::remove_file(&cached[0]).unwrap();
    std::fs::write(&cached[1], "torn").unwrap();
    assert_eq!(asked(folder.path()).await, 2);
    wait_for_files(folder.path(), all);
    assert_eq!(asked(folder.path()).await, 0);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_costs_transfers_and_no_job() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let all = asked(&file).await;
    assert_eq!(asked(&file).await, all);
}
