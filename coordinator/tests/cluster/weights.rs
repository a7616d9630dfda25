//! Where workers have their parameters from.

use asyncdiff_coordinator::job::JobState;
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{WeightCounts, run_in_process};
use asyncdiff_plan::TimeShift;
use tempfile::TempDir;

use super::support::{LONG, TestCluster, plain_job, tensor_job, tiny_store, wishes};

/// A cluster without workers, and folders for those that will be there.
async fn empty() -> (TestCluster, [TempDir; 2]) {
    (TestCluster::start(&[], Pace::Instant).await, [(); 2].map(|()| tempfile::tempdir().unwrap()))
}

async fn join(cluster: &mut TestCluster, name: &str, folder: &TempDir) {
    let worker = SimulatedWorker::with_cache(&cluster.hub, name, folder.path().to_owned()).unwrap();
    cluster.workers.push(worker);
    cluster.cluster.wait_for_workers(cluster.workers.len(), LONG).await.unwrap();
}

async fn counts(cluster: &TestCluster, name: &str) -> WeightCounts {
    let workers = cluster.cluster.workers().await.unwrap();
    workers.iter().find(|worker| worker.name == name).unwrap().weights
}

#[tokio::test]
async fn who_comes_later_has_parameters_of_who_was_there_and_makes_the_same_bits() {
    let (mut cluster, folders) = empty().await;
    join(&mut cluster, "first", &folders[0]).await;
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
    let first = counts(&cluster, "first").await;
    assert!(first.coordinator_bytes > 0 && first.peer_bytes == 0, "{first:?}");
    join(&mut cluster, "second", &folders[1]).await;
    let spec = tensor_job(4, 7.5, wishes(2, 1, 1, TimeShift::Off));
    let expected = run_in_process(&tiny_store(), spec.clone(), 2).unwrap();
    let record = cluster.run(spec).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let outcome = cluster.cluster.outcome(record.id).await.unwrap().unwrap();
    assert_eq!(outcome.latents.1, expected.latents);
    let second = counts(&cluster, "second").await;
    assert!(second.peer_bytes > 0, "{second:?}");
    assert_eq!(counts(&cluster, "first").await, first, "it had everything");
}

#[tokio::test]
async fn a_holder_that_is_leaving_or_gone_is_asked_for_nothing() {
    let (mut cluster, folders) = empty().await;
    join(&mut cluster, "first", &folders[0]).await;
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
    join(&mut cluster, "second", &folders[1]).await;
    assert!(cluster.cluster.drain("first").await.unwrap());
    let record = cluster.run(plain_job(2)).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let second = counts(&cluster, "second").await;
    assert!(second.coordinator_bytes > 0 && second.peer_bytes == 0, "{second:?}");
}

#[tokio::test]
async fn a_worker_that_comes_back_is_known_to_hold_what_its_cache_has() {
    let (mut cluster, folders) = empty().await;
    join(&mut cluster, "first", &folders[0]).await;
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
    cluster.workers.pop().unwrap().leave().await;
    let gone = async {
        while !cluster.cluster.workers().await.unwrap().is_empty() {
            tokio::task::yield_now().await
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    join(&mut cluster, "first", &folders[0]).await;
    join(&mut cluster, "second", &folders[1]).await;
    let record = cluster.run(tensor_job(4, 7.5, wishes(2, 1, 1, TimeShift::Off))).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(counts(&cluster, "first").await, WeightCounts::default(), "its disk had everything");
    assert!(counts(&cluster, "second").await.peer_bytes > 0);
}
