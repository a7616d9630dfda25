//! Workers that leave and join while a picture is made: its components move while it goes on, and nothing fails.

use std::time::Duration;

use asyncdiff_coordinator::job::{JobRecord, JobState};
use asyncdiff_coordinator::local_workers::SimulatedWorker;
use asyncdiff_coordinator::{JobSpec, run_in_process};
use asyncdiff_plan::Wishes;

use super::support::{LONG, SLOW, TestCluster, ended, plain_job, tensor_job, tiny_store};

/// The job went on without a fault, and says that it moved.
fn check_moved(record: &JobRecord, why: &str, workers: &[&str]) {
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(record.recoveries.is_empty(), "{:?}", record.recoveries);
    assert!(record.warnings.iter().any(|warning| warning.contains(why)), "{:?}", record.warnings);
    assert!(record.moves.iter().any(|to| to.why.contains(why)), "{:?}", record.moves);
    assert_eq!(record.summary.as_ref().unwrap().workers, workers);
}

async fn wait_until_gone(cluster: &TestCluster, name: &str) {
    let gone = async {
        while cluster.cluster.workers().await.unwrap().iter().any(|worker| worker.name == name) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_worker_hands_its_part_over_and_goes_before_the_job_ends() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(plain_job(30)).await;
    cluster.wait_for_steps(&handle, 3).await;
    assert!(cluster.cluster.drain("b").await.unwrap());
    assert!(!cluster.cluster.drain("nobody").await.unwrap());
    wait_until_gone(&cluster, "b").await;
    assert_eq!(cluster.cluster.job(handle.id).await.unwrap().state, JobState::Running);
    check_moved(&ended(handle).await, "worker b leaves", &["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_the_only_one_stays_for_its_job_and_gets_no_other() {
    let cluster = TestCluster::start(&["a"], SLOW).await;
    let (handle, next) = (cluster.submit(plain_job(8)).await, cluster.submit(plain_job(2)).await);
    cluster.wait_for_steps(&handle, 2).await;
    assert!(cluster.cluster.drain("a").await.unwrap());
    let record = ended(handle).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    wait_until_gone(&cluster, "a").await;
    assert_eq!(cluster.cluster.job(next.id).await.unwrap().state, JobState::Queued);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_joins_helps_with_the_picture_that_is_being_made() {
    let mut cluster = TestCluster::start(&["a"], SLOW).await;
    let handle = cluster.submit(plain_job(40)).await;
    cluster.wait_for_steps(&handle, 3).await;
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "b", SLOW).unwrap());
    check_moved(&ended(handle).await, "more workers are there", &["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_joins_for_the_last_steps_is_left_for_the_next_job() {
    let mut cluster = TestCluster::start(&["a"], SLOW).await;
    let handle = cluster.submit(plain_job(12)).await;
    cluster.wait_for_steps(&handle, 9).await;
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "b", SLOW).unwrap());
    let record = ended(handle).await;
    assert_eq!(record.summary.unwrap().workers, ["a"]);
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
}

#[tokio::test(start_paused = true)]
async fn an_exact_job_that_moved_twice_has_the_bits_of_one_that_did_not() {
    let exact = || -> JobSpec {
        let wishes =
            Wishes { components: Some(2), warm_up: Some(24), split_guidance: Some(false), ..Wishes::default() };
        let mut spec = tensor_job(24, 1.0, wishes);
        spec.settings.scheduler = Some("unipc".to_owned());
        spec
    };
    let undisturbed = run_in_process(&tiny_store(), exact(), 1).unwrap();
    let mut cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(exact()).await;
    cluster.wait_for_steps(&handle, 3).await;
    assert!(cluster.cluster.drain("b").await.unwrap());
    wait_until_gone(&cluster, "b").await;
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "c", SLOW).unwrap());
    cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
    assert!(cluster.cluster.drain("a").await.unwrap());
    let id = handle.id;
    check_moved(&ended(handle).await, "worker a leaves", &["c"]);
    let outcome = cluster.cluster.outcome(id).await.unwrap().unwrap();
    assert_eq!(outcome.latents.1, undisturbed.latents);
}
