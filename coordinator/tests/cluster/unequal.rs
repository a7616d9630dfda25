//! Devices of unequal speeds, and such whose speed changes after they were measured: plans follow what layers take in jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asyncdiff_coordinator::Limits;
use asyncdiff_coordinator::job::{JobState, JobSummary};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_plan::{Encoding, Wishes};
use asyncdiff_transport::network::SimulatedNetwork;

use super::support::{LONG, TestCluster, tensor_job, tiny_store};

const RATE: f64 = 3.0e7;

/// Steps of each job: so many that the warm-up hardly counts.
const STEPS: u32 = 40;

/// Two workers, and what the second one can do at the moment.
async fn cluster() -> (TestCluster, Arc<AtomicU64>) {
    let hub = SimulatedNetwork::new();
    let mut cluster =
        TestCluster::on(hub.clone(), tiny_store(), &["a"], Pace::FlopsPerSecond(RATE), Limits::default()).await;
    let rate = Arc::new(AtomicU64::new(RATE as u64));
    let now = Arc::clone(&rate);
    let changing = move || now.load(Ordering::Relaxed) as f64;
    cluster.workers.push(SimulatedWorker::with_changing_pace(&hub, "b", changing).unwrap());
    cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
    (cluster, rate)
}

async fn run(cluster: &TestCluster, steps: u32) -> JobSummary {
    let wishes = Wishes {
        components: Some(2),
        warm_up: Some(1),
        split_guidance: Some(false),
        encoding: Some(Encoding::Full),
        ..Wishes::default()
    };
    let record = cluster.run(tensor_job(steps, 7.5, wishes)).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    record.summary.unwrap()
}

#[tokio::test(start_paused = true)]
async fn jobs_after_a_worker_became_slow_are_split_by_its_new_speed() {
    let (cluster, rate) = cluster().await;
    let equal = run(&cluster, STEPS).await;
    rate.store((RATE / 3.0) as u64, Ordering::Relaxed);
    let unaware = run(&cluster, STEPS).await;
    let aware = run(&cluster, STEPS).await;

    let ratio = |summary: &JobSummary| summary.predicted_seconds / summary.denoise_seconds;
    assert!((0.9..1.1).contains(&ratio(&equal)), "{}", ratio(&equal));
    assert!(ratio(&unaware) < 0.5, "the change was not known yet: {}", ratio(&unaware));
    assert!((0.9..1.1).contains(&ratio(&aware)), "{}", ratio(&aware));
    // Two devices of speeds 1 and 1/3 make at best 4/3 of one device's work.
    let possible = aware.alone_seconds.min(equal.alone_seconds) * 3.0 / 4.0;
    assert!(possible / aware.denoise_seconds > 0.85, "{possible} of {}", aware.denoise_seconds);
    assert!(unaware.denoise_seconds > 1.5 * aware.denoise_seconds);
}

/// What a few steps take says little of a device: memory is touched for the first time, and a median of two is chance.
#[tokio::test(start_paused = true)]
async fn a_job_of_few_steps_makes_nobody_slow() {
    let (cluster, rate) = cluster().await;
    let before = run(&cluster, STEPS).await;
    rate.store((RATE / 3.0) as u64, Ordering::Relaxed);
    run(&cluster, 3).await;
    rate.store(RATE as u64, Ordering::Relaxed);
    let after = run(&cluster, STEPS).await;
    let ratio = after.predicted_seconds / before.predicted_seconds;
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
}
