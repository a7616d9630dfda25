//! Links are measured before a plan is made, and the plan is one for the links that there are.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use asyncdiff_coordinator::job::JobState;
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{Limits, PlannedJob};
use asyncdiff_plan::{Encoding, Rank, Wishes};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;

use super::support::{LONG, TestCluster, plain_job, tensor_job, tiny_store, wishes};

const SEED: u64 = 23;

/// A rate at which a step of the tiny denoiser takes a tenth of a second or so.
const PACE: Pace = Pace::FlopsPerSecond(3.0e8);

const NAMES: [&str; 2] = ["a", "b"];

/// Two workers whose links to each other have faults.
async fn cluster(faults: &Faults) -> TestCluster {
    let hub = SimulatedNetwork::with_faults(SEED);
    let [a, b] = NAMES.map(|name| PeerName::worker(name).unwrap());
    hub.set_faults(&a, &b, faults);
    hub.set_faults(&b, &a, faults);
    TestCluster::on(hub, tiny_store(), &NAMES, PACE, Limits::default()).await
}

fn rate(bytes_per_second: u64) -> Faults {
    Faults { bytes_per_second: NonZeroU64::new(bytes_per_second), ..Faults::default() }
}

/// A split of the layers is up to the policy; one of the guidance halves, which crosses no link, is not asked for, nor fewer bits, which
/// would make a slow link worth using.
fn open_wishes() -> Wishes {
    Wishes { warm_up: Some(1), split_guidance: Some(false), encoding: Some(Encoding::Full), ..Wishes::default() }
}

async fn planned(cluster: &TestCluster) -> PlannedJob {
    cluster.cluster.plan(&tensor_job(20, 7.5, open_wishes()).settings).await.unwrap()
}

fn components(planned: &PlannedJob) -> usize {
    planned.choice.placed.plan.partition.components()
}

#[tokio::test(start_paused = true)]
async fn a_fast_link_is_planned_over_and_a_slow_one_is_not() {
    let fast = planned(&cluster(&rate(100_000_000)).await).await;
    assert_eq!(components(&fast), 2, "{}", fast.choice.reason);
    let slow = planned(&cluster(&rate(10_000)).await).await;
    assert_eq!(components(&slow), 1, "{}", slow.choice.reason);
    for (planned, rate) in [(&fast, 1e8), (&slow, 1e4)] {
        for (from, to) in [(0, 1), (1, 0)] {
            let cost = planned.links.cost(Some(Rank(from)), Some(Rank(to)));
            assert!((cost.bytes_per_second / rate - 1.0).abs() < 0.05, "{cost:?}");
        }
        assert!(planned.choice.notes.is_empty(), "{:?}", planned.choice.notes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pair_without_a_link_is_named_and_the_job_is_done_without_it() {
    let cluster = cluster(&Faults { cut: true, ..Faults::default() }).await;
    let record = cluster.run(tensor_job(4, 7.5, open_wishes())).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(record.summary.unwrap().components, 1);
    assert_eq!(record.warnings.len(), 2, "{:?}", record.warnings);
    for (warning, ends) in record.warnings.iter().zip([["a", "b"], ["b", "a"]]) {
        let text = format!("worker {} has no usable link to worker {}", ends[0], ends[1]);
        assert!(warning.starts_with(&text) && warning.contains("by UDP"), "{warning}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_link_of_a_large_cluster_is_found_before_a_plan_uses_it() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let hub = SimulatedNetwork::with_faults(SEED);
    let large = TestCluster::on(hub.clone(), tiny_store(), &names, PACE, Limits::default()).await;
    let usual = planned(&large).await;
    assert!(
        components(&usual) > 2 && usual.choice.notes.is_empty(),
        "{} {:?}",
        usual.choice.reason,
        usual.choice.notes
    );

    let hub = SimulatedNetwork::with_faults(SEED);
    // Not the first link, which is measured in any case.
    let [b, c] = ["b", "c"].map(|name| PeerName::worker(name).unwrap());
    hub.set_faults(&b, &c, &Faults { cut: true, ..Faults::default() });
    let large = TestCluster::on(hub, tiny_store(), &names, PACE, Limits::default()).await;
    let found = planned(&large).await;
    let used: BTreeSet<Rank> = found.choice.placed.ranks.iter().copied().collect();
    assert!(!used.contains(&Rank(1)) || !used.contains(&Rank(2)), "{}", found.choice.reason);
    assert!(components(&found) > 2, "the others are used: {}", found.choice.reason);
    assert!(found.choice.notes.iter().any(|note| note.contains("worker b has no usable link to worker c")));
}

#[tokio::test(start_paused = true)]
async fn links_are_measured_once_and_again_for_a_worker_that_comes_back() {
    let mut cluster = cluster(&rate(100_000_000)).await;
    let [a, b] = NAMES.map(|name| PeerName::worker(name).unwrap());
    assert_eq!(components(&planned(&cluster).await), 2);
    cluster.hub.set_faults(&a, &b, &rate(10_000));
    assert_eq!(components(&planned(&cluster).await), 2, "what was measured counts");
    cluster.workers.pop().unwrap().leave().await;
    let left = async {
        while cluster.cluster.workers().await.unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, left).await.unwrap();
    cluster.workers.push(SimulatedWorker::start(&cluster.hub, "b", PACE).unwrap());
    cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
    assert_eq!(components(&planned(&cluster).await), 1, "its new session is measured");
}

#[tokio::test(start_paused = true)]
async fn a_job_of_one_component_measures_no_link() {
    let cluster = cluster(&Faults { cut: true, ..Faults::default() }).await;
    let record = cluster.run(tensor_job(3, 7.5, wishes(1, 1, 1, asyncdiff_plan::TimeShift::Off))).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(record.warnings.is_empty(), "{:?}", record.warnings);
    assert_eq!(cluster.run(plain_job(3)).await.warnings.len(), 2, "a job of two does");
}
