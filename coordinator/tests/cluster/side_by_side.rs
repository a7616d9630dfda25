//! Jobs that run at the same time, each with the workers that its plan has use for.

use std::time::Duration;

use asyncdiff_coordinator::job::{JobRecord, JobState};
use asyncdiff_coordinator::local_workers::SimulatedWorker;
use asyncdiff_coordinator::{JobSpec, Limits, run_in_process};
use asyncdiff_plan::Wishes;

use super::support::{LONG, SLOW, TestCluster, ended, plain_job, tensor_job, tiny_store};

/// A job that one worker is enough for.
fn small(steps: u32) -> JobSpec {
    let wishes = Wishes { components: Some(1), split_guidance: Some(false), ..Wishes::default() };
    tensor_job(steps, 1.0, wishes)
}

fn workers(record: &JobRecord) -> &[String] {
    &record.summary.as_ref().unwrap().workers
}

async fn wait_for_phase(cluster: &TestCluster, job: asyncdiff_plan::JobId, phase: &str) {
    let reached = async {
        while !cluster.cluster.job(job).await.unwrap().phase.contains(phase) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, reached).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jobs_that_need_one_worker_each_run_at_the_same_time_and_make_the_same_pictures() {
    let alone = run_in_process(&tiny_store(), small(20), 1).unwrap();
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let (one, two, third) =
        (cluster.submit(small(20)).await, cluster.submit(small(20)).await, cluster.submit(small(20)).await);
    cluster.wait_for_steps(&two, 5).await;
    assert_eq!(cluster.cluster.job(one.id).await.unwrap().state, JobState::Running);
    let waiting = cluster.cluster.job(third.id).await.unwrap();
    assert_eq!((waiting.state, waiting.phase.as_str()), (JobState::Queued, "waiting for workers that other jobs use"));
    let ids = [one.id, two.id, third.id];
    let records = [ended(one).await, ended(two).await, ended(third).await];
    assert_eq!([workers(&records[0]), workers(&records[1])], [["a"], ["b"]]);
    for (record, id) in records.iter().zip(ids) {
        assert_eq!(record.state, JobState::Done, "{:?}", record.error);
        assert_eq!(cluster.cluster.outcome(id).await.unwrap().unwrap().latents.1, alone.latents);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_takes_the_workers_of_one_that_has_ended() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let (first, second) = (cluster.submit(small(8)).await, cluster.submit(plain_job(40)).await);
    let first = ended(first).await;
    let second = ended(second).await;
    assert_eq!((workers(&first).len(), workers(&second).len()), (1, 2), "{:?}", second.moves);
    assert_eq!(second.moves.len(), 1);
    assert!(second.moves[0].why.contains("more workers"), "{:?}", second.moves);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_has_use_for_all_workers_leaves_none_to_the_next() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let (first, second) = (cluster.submit(plain_job(20)).await, cluster.submit(plain_job(3)).await);
    cluster.wait_for_steps(&first, 10).await;
    assert_eq!(cluster.cluster.job(second.id).await.unwrap().state, JobState::Queued);
    assert_eq!(workers(&ended(first).await).len(), 2);
    assert_eq!(ended(second).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn one_job_at_a_time_is_a_limit_that_can_be_set() {
    let limits = Limits { side_by_side: 1, ..Limits::default() };
    let cluster = TestCluster::with_store(tiny_store(), &["a", "b"], SLOW, limits).await;
    let (first, second) = (cluster.submit(small(20)).await, cluster.submit(small(2)).await);
    cluster.wait_for_steps(&first, 10).await;
    assert_eq!(cluster.cluster.job(second.id).await.unwrap().state, JobState::Queued);
    assert_eq!(ended(first).await.state, JobState::Done);
    assert_eq!(ended(second).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_lost_its_worker_waits_for_those_of_another_job_however_long_that_takes() {
    let limits = Limits { wait_for_workers: Duration::from_secs(1), ..Limits::default() };
    let mut cluster = TestCluster::with_store(tiny_store(), &["a", "b"], SLOW, limits).await;
    let (first, second) = (cluster.submit(small(20)).await, cluster.submit(small(20)).await);
    let third = cluster.submit(small(2)).await;
    cluster.wait_for_steps(&second, 3).await;
    drop(cluster.workers.remove(1));
    wait_for_phase(&cluster, second.id, "waiting for workers that other jobs use").await;
    assert_eq!(workers(&ended(first).await), ["a"]);
    let second = ended(second).await;
    assert_eq!(second.state, JobState::Done, "{:?}", second.error);
    assert_eq!((workers(&second), second.recoveries.len()), (["a".to_owned()].as_slice(), 1));
    let third = ended(third).await;
    assert_eq!(third.state, JobState::Done);
    assert!(third.times.started >= second.times.ended, "it was in the queue behind one that lacked a worker");
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_left_over_steps_in_for_one_that_is_lost() {
    let mut cluster = TestCluster::start(&["a", "b", "c"], SLOW).await;
    let (first, second) = (cluster.submit(small(30)).await, cluster.submit(small(30)).await);
    cluster.wait_for_steps(&second, 3).await;
    drop(cluster.workers.remove(0));
    let records = [ended(first).await, ended(second).await];
    assert_eq!(records.each_ref().map(|record| record.state), [JobState::Done; 2]);
    assert_eq!([workers(&records[0]), workers(&records[1])], [["c"], ["b"]]);
    assert_eq!(records[0].recoveries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_fit_what_is_left_waits_for_the_others_workers() {
    let mut cluster = TestCluster::start(&["a"], SLOW).await;
    cluster.workers.push(SimulatedWorker::with_memory(&cluster.hub, "z-small", 1000).unwrap());
    cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
    let (first, second) = (cluster.submit(small(20)).await, cluster.submit(small(3)).await);
    cluster.wait_for_steps(&first, 5).await;
    wait_for_phase(&cluster, second.id, "waiting for workers that other jobs use").await;
    assert_eq!(workers(&ended(first).await), ["a"]);
    let second = ended(second).await;
    assert_eq!(second.state, JobState::Done, "{:?}", second.error);
    assert_eq!(workers(&second), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn cancelling_one_job_leaves_the_other_alone() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let (first, second) = (cluster.submit(small(900)).await, cluster.submit(small(20)).await);
    cluster.wait_for_steps(&second, 3).await;
    assert_eq!(cluster.cluster.cancel(first.id).await.unwrap().state, JobState::Cancelled);
    let second = ended(second).await;
    assert_eq!((second.state, second.recoveries.len()), (JobState::Done, 0));
}

#[tokio::test(start_paused = true)]
async fn while_no_more_jobs_are_started_the_one_that_runs_is_still_given_workers() {
    let mut cluster = TestCluster::start(&["a"], SLOW).await;
    let (running, waiting) = (cluster.submit(small(12)).await, cluster.submit(small(2)).await);
    cluster.wait_for_steps(&running, 3).await;
    cluster.cluster.hold();
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "b", SLOW).unwrap());
    cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
    drop(cluster.workers.remove(0));
    let record = ended(running).await;
    assert_eq!((record.state, workers(&record)), (JobState::Done, ["b".to_owned()].as_slice()), "{:?}", record.error);
    assert_eq!(cluster.cluster.job(waiting.id).await.unwrap().state, JobState::Queued);
}
