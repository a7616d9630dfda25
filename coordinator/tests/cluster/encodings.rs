//! Hidden states that travel encoded: the same bits on every kind of cluster, fewer bytes, and nearly the same latents.

use std::time::Duration;

use asyncdiff_coordinator::job::{JobState, JobSummary};
use asyncdiff_coordinator::local_workers::Pace;
use asyncdiff_coordinator::{JobOutcome, Limits, run_in_process};
use asyncdiff_plan::{Encoding, Prefer, TimeShift, Wishes};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;

use super::support::{TestCluster, tensor_job, tiny_store, wishes};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const STEPS: u32 = 8;

fn encoded(components: usize, stride: u32, encoding: Encoding) -> Wishes {
    Wishes { encoding: Some(encoding), ..wishes(components, stride, 1, TimeShift::Off) }
}

/// Runs a job, which must give the bits of one process, and returns how it went.
async fn run(cluster: &TestCluster, wishes: Wishes) -> JobSummary {
    let spec = tensor_job(STEPS, 7.5, wishes);
    let expected = run_in_process(&tiny_store(), spec.clone(), cluster.workers.len()).unwrap();
    let record = cluster.run(spec).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let outcome: std::sync::Arc<JobOutcome> = cluster.cluster.outcome(record.id).await.unwrap().unwrap();
    assert_eq!(outcome.latents.1, expected.latents);
    record.summary.unwrap()
}

#[tokio::test]
async fn every_encoding_gives_the_bits_of_one_process_and_the_bytes_that_were_predicted() {
    let cluster = TestCluster::start(&NAMES[..2], Pace::Instant).await;
    for encoding in Encoding::ALL {
        let summary = run(&cluster, encoded(2, 1, encoding)).await;
        assert_eq!(summary.encoding, encoding.name());
        let ratio = summary.bytes_per_step / summary.predicted_bytes_per_step;
        assert!((ratio - 1.0).abs() < 0.02, "{encoding}: {summary:?}");
    }
}

#[tokio::test]
async fn strides_and_lanes_of_guidance_have_chains_of_their_own() {
    let cluster = TestCluster::start(&NAMES, Pace::Instant).await;
    run(&cluster, encoded(3, 2, Encoding::Delta8)).await;
    run(&cluster, Wishes { split_guidance: Some(true), ..encoded(2, 1, Encoding::Delta4) }).await;
}

#[tokio::test(start_paused = true)]
async fn tensors_that_overtake_each_other_are_taken_in_order() {
    let seed = 5;
    let hub = SimulatedNetwork::with_faults(seed);
    for from in NAMES {
        for to in NAMES.iter().filter(|to| **to != from) {
            let [from, to] = [from, *to].map(|name| PeerName::worker(name).unwrap());
            let jitter = Duration::from_secs(1);
            hub.set_faults(&from, &to, &Faults { jitter, ..Faults::default() });
        }
    }
    let limits = Limits { step_within: Duration::from_secs(600), ..Limits::default() };
    let cluster = TestCluster::on(hub, tiny_store(), &NAMES, Pace::Instant, limits).await;
    run(&cluster, encoded(4, 1, Encoding::Delta8)).await;
}

/// The largest difference of two runs' latents, relative to the largest value.
fn difference(one: Wishes, other: Wishes) -> f32 {
    let latents = |wishes| run_in_process(&tiny_store(), tensor_job(STEPS, 7.5, wishes), 3).unwrap().latents;
    let (one, other) = (latents(one), latents(other));
    let largest = one.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    one.iter().zip(&other).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn fewer_bits_lose_more_and_none_of_them_much() {
    let loss = |encoding| difference(encoded(3, 1, Encoding::Full), encoded(3, 1, encoding));
    let losses = [Encoding::F16, Encoding::Delta8, Encoding::Delta4].map(loss);
    assert!(0.0 < losses[0] && losses[0] < losses[1] && losses[1] < losses[2], "{losses:?}");
    // What values that are a step old lose: an encoding shall lose less.
    let stale = difference(wishes(3, 1, 1, TimeShift::Off), wishes(3, 1, STEPS, TimeShift::Off));
    assert!(losses[1] < stale / 4.0 && losses[2] < stale, "{losses:?}, {stale}");
}

#[test]
fn exact_steps_stay_exact_whatever_the_encoding() {
    let warm = |encoding| Wishes { warm_up: Some(STEPS), ..encoded(3, 1, encoding) };
    assert_eq!(difference(warm(Encoding::Full), warm(Encoding::Delta4)), 0.0);
    let exact = Wishes { prefer: Prefer::Exact, ..encoded(3, 1, Encoding::Delta4) };
    assert_eq!(difference(encoded(3, 1, Encoding::Full), exact), 0.0);
}
