//! Several jobs, cancelling, waiting for workers, shutting down.

use std::time::Duration;

use asyncdiff_coordinator::job::{Fault, JobState};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{ClusterError, Limits, SubmitRefused};

use super::support::{LONG, SLOW, TestCluster, ended, plain_job, tiny_store};

#[tokio::test]
async fn several_jobs_run_one_after_the_other() {
    let cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    let mut handles = Vec::new();
    for _job in 0..3 {
        handles.push(cluster.submit(plain_job(3)).await);
    }
    for handle in handles {
        assert_eq!(ended(handle).await.state, JobState::Done);
    }
    let jobs = cluster.cluster.jobs().await.unwrap();
    assert_eq!(jobs.iter().map(|job| job.progress).collect::<Vec<_>>(), [(3, 3); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_job_frees_the_workers_for_the_next() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let long = cluster.submit(plain_job(900)).await;
    let waiting = cluster.submit(plain_job(2)).await;
    let next = cluster.submit(plain_job(2)).await;
    cluster.wait_for_steps(&long, 2).await;
    cluster.cluster.cancel(waiting.id).await.unwrap();
    assert_eq!(ended(waiting).await.state, JobState::Cancelled);
    cluster.cluster.cancel(long.id).await.unwrap();
    let record = ended(long).await;
    assert_eq!(record.state, JobState::Cancelled);
    assert_eq!(record.error.unwrap().fault, Fault::Cancelled);
    assert_eq!(ended(next).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_a_worker_and_says_so() {
    let cluster = TestCluster::start(&[], Pace::Instant).await;
    let handle = cluster.submit(plain_job(2)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let record = cluster.cluster.job(handle.id).await.unwrap();
    assert_eq!(record.state, JobState::Queued);
    assert!(record.phase.contains("waiting for a worker"), "{}", record.phase);
    let _worker = SimulatedWorker::start(&cluster.hub, "late", Pace::Instant).unwrap();
    assert_eq!(ended(handle).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_not_done_in_time_are_given_up_wherever_they_are() {
    let limits = Limits { job_within: Duration::from_secs(100), ..Limits::default() };
    let cluster = TestCluster::with_store(tiny_store(), &["a"], SLOW, limits).await;
    let within = |seconds| {
        let mut spec = plain_job(900);
        spec.settings.deadline_seconds = Some(seconds);
        spec
    };
    let began = tokio::time::Instant::now();
    // The coordinator allows no more than 100 s.
    let (running, waiting) = (cluster.submit(within(3600)).await, cluster.submit(within(5)).await);
    let waiting = ended(waiting).await;
    assert_eq!((waiting.state, began.elapsed().as_secs()), (JobState::Failed, 5));
    let error = waiting.error.unwrap();
    assert!(error.message.contains("not done 5s after") && error.hint.contains("--deadline"), "{error:?}");
    let running = ended(running).await;
    assert_eq!((running.state, began.elapsed().as_secs()), (JobState::Failed, 100));
    assert!(running.error.unwrap().message.contains(&format!("after {} steps", running.progress.0)));
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done, "its worker is free");
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_what_to_do() {
    let limits = Limits { queue_length: 2, ..Limits::default() };
    let cluster = TestCluster::with_store(tiny_store(), &[], Pace::Instant, limits).await;
    for _job in 0..2 {
        let _handle = cluster.submit(plain_job(2)).await;
    }
    let refused = cluster.cluster.submit(plain_job(2)).await.err().unwrap();
    assert!(matches!(refused, ClusterError::Refused(SubmitRefused::Full { length: 2 })));
    let error = refused.to_error();
    assert!(error.message.contains("2 jobs are waiting") && error.hint.contains("cancel"), "{error:?}");
}

#[tokio::test]
async fn only_the_newest_ended_jobs_are_kept() {
    let limits = Limits { kept_jobs: 2, ..Limits::default() };
    let cluster = TestCluster::with_store(tiny_store(), &["a"], Pace::Instant, limits).await;
    let first = cluster.run(plain_job(1)).await;
    for _job in 0..2 {
        cluster.run(plain_job(1)).await;
    }
    assert!(matches!(cluster.cluster.job(first.id).await, Err(ClusterError::UnknownJob { .. })));
    assert_eq!(cluster.cluster.jobs().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_listener_of_an_ended_job_hears_its_end() {
    let cluster = TestCluster::start(&["a"], Pace::Instant).await;
    let record = cluster.run(plain_job(1)).await;
    let again = cluster.cluster.events(record.id).await.unwrap();
    assert_eq!(ended(again).await, record);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_ends_jobs_and_says_goodbye() {
    let TestCluster { cluster, workers, .. } = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(plain_job(900)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.shutdown(Duration::from_secs(3)).await;
    assert_eq!(ended(handle).await.state, JobState::Cancelled);
    for worker in workers {
        tokio::time::timeout(LONG, worker.leave()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_is_not_counted_on_any_more() {
    let mut cluster = TestCluster::start(&["a", "b"], Pace::Instant).await;
    cluster.workers.remove(0).leave().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let names: Vec<String> = cluster.cluster.workers().await.unwrap().into_iter().map(|worker| worker.name).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
}
