//! Lost workers, failing workers, failing checkpoints: each ends its job with an error that names who and what, and
//! nothing else.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncdiff_coordinator::job::{Fault, JobRecord, JobState};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{ClusterError, Limits, ModelStore};
use asyncdiff_model::checkpoint::{FormulaWeights, StoredTensor, Weights, WeightsError};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;
use tokio::time::Instant;

use super::support::{SLOW, TestCluster, ended, plain_job, tiny_model, tiny_store};

fn check_lost(record: &JobRecord, since: Instant) {
    assert_eq!(record.state, JobState::Failed);
    let error = record.error.as_ref().unwrap();
    assert!(error.message.contains("worker b was lost"), "{error:?}");
    assert_eq!(error.fault, Fault::Peer);
    assert!(!error.hint.is_empty());
    assert!(since.elapsed() < Duration::from_secs(3), "noticed after {:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_killed_worker_fails_its_job_within_three_seconds_and_others_go_on() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let (handle, next) = (cluster.submit(plain_job(500)).await, cluster.submit(plain_job(2)).await);
    cluster.wait_for_steps(&handle, 3).await;
    let since = Instant::now();
    cluster.hub.vanish(&PeerName::worker("b").unwrap());
    check_lost(&ended(handle).await, since);
    assert_eq!(ended(next).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_is_lost_within_three_seconds() {
    let hub = SimulatedNetwork::with_faults(7);
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b"], SLOW, Limits::default()).await;
    let handle = cluster.submit(plain_job(500)).await;
    cluster.wait_for_steps(&handle, 3).await;
    let since = Instant::now();
    let cut = Faults { cut: true, ..Faults::default() };
    cluster.hub.set_faults(&PeerName::worker("b").unwrap(), &PeerName::Coordinator, &cut);
    check_lost(&ended(handle).await, since);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_predictions_do_not_come_is_named() {
    let hub = SimulatedNetwork::with_faults(8);
    let limits = Limits { step_within: Duration::from_secs(100), ..Limits::default() };
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b"], SLOW, limits).await;
    // Its heartbeats come as before: only tensors are slow.
    let slow = Faults { bytes_per_second: NonZeroU64::new(1), ..Faults::default() };
    cluster.hub.set_faults(&PeerName::worker("b").unwrap(), &PeerName::Coordinator, &slow);
    let error = cluster.run(plain_job(5)).await.error.unwrap();
    assert!(error.message.contains("worker b sent no noise prediction of step 0"), "{error:?}");
    assert_eq!(error.fault, Fault::Peer);
}

#[tokio::test]
async fn a_worker_with_too_little_memory_is_left_out_and_named_where_it_was_asked_for() {
    let mut cluster = TestCluster::start(&["a"], Pace::Instant).await;
    cluster.workers.push(SimulatedWorker::with_memory(&cluster.hub, "small-box", 1000).unwrap());
    cluster.cluster.wait_for_workers(2, super::support::LONG).await.unwrap();
    assert_eq!(cluster.run(plain_job(3)).await.summary.unwrap().components, 1);
    let mut for_two = plain_job(3);
    for_two.settings.wishes.components = Some(2);
    let error = cluster.run(for_two).await.error.unwrap();
    assert!(error.message.contains("small-box") && error.message.contains("1000"), "{error:?}");
    assert!(error.hint.contains("add workers"), "{error:?}");
    assert_eq!(error.fault, Fault::Hardware);
}

/// Weights of which the first that is asked for goes wrong.
struct FirstGoesWrong {
    how: fn(&str) -> WeightsError,
    done: AtomicBool,
}

impl Weights for FirstGoesWrong {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        if !self.done.swap(true, Ordering::Relaxed) {
            return Err((self.how)(name));
        }
        FormulaWeights { seed: 1 }.stored(name, shape)
    }

    fn contains(&self, _name: &str) -> bool {
        true
    }

    fn source(&self) -> String {
        "a test".to_owned()
    }
}

async fn cluster_with(how: fn(&str) -> WeightsError) -> TestCluster {
    let weights = FirstGoesWrong { how, done: AtomicBool::new(false) };
    let store = ModelStore::denoiser_alone(tiny_model(), Box::new(weights)).unwrap();
    TestCluster::with_store(store, &["a", "b"], Pace::Instant, Limits::default()).await
}

#[tokio::test]
async fn a_panic_fails_its_job_as_a_bug_and_no_other() {
    let cluster = cluster_with(|_| panic!("out of cheese")).await;
    let error = cluster.run(plain_job(2)).await.error.unwrap();
    assert_eq!(error.fault, Fault::Bug);
    assert!(error.message.contains("out of cheese"), "{error:?}");
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
}

#[tokio::test]
async fn a_missing_weight_is_the_operators_to_mend() {
    let missing = |name: &str| WeightsError::Missing { source_name: "unet.safetensors".into(), name: name.to_owned() };
    let cluster = cluster_with(missing).await;
    let error = cluster.run(plain_job(2)).await.error.unwrap();
    assert_eq!(error.fault, Fault::Operator);
    assert!(error.message.contains("is missing in unet.safetensors"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_newer_process_of_a_name_takes_the_older_ones_place() {
    let mut cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(plain_job(500)).await;
    cluster.wait_for_steps(&handle, 3).await;
    let newer = SimulatedWorker::start(&cluster.hub, "b", Pace::Instant).unwrap();
    let error = ended(handle).await.error.unwrap();
    assert!(error.message.contains("worker b was lost"), "{error:?}");
    cluster.workers.remove(1).leave().await;
    assert_eq!(cluster.run(plain_job(2)).await.state, JobState::Done);
    drop(newer);
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_at_submission() {
    let cluster = TestCluster::start(&[], Pace::Instant).await;
    let refuse = async |change: fn(&mut asyncdiff_coordinator::JobSpec)| {
        let mut spec = plain_job(2);
        change(&mut spec);
        let error = cluster.cluster.submit(spec).await.err().unwrap();
        assert!(matches!(error, ClusterError::Job(_)), "{error}");
        let error = error.to_error();
        assert_eq!(error.fault, Fault::Operator);
        error
    };
    let size = refuse(|spec| spec.settings.size = Some((100, 64))).await;
    assert!(size.hint.contains("96x64") && size.hint.contains("104x64"), "{size:?}");
    let scheduler = refuse(|spec| spec.settings.scheduler = Some("dimm".to_owned())).await;
    assert!(scheduler.hint.contains("ddim"), "{scheduler:?}");
    let steps = refuse(|spec| spec.settings.steps = NonZeroU32::new(2000).unwrap()).await;
    assert!(steps.message.contains("2000"), "{steps:?}");
    refuse(|spec| spec.settings.guidance_scale = f64::NAN).await;
    // Without guidance the conditions have one row, not two.
    refuse(|spec| spec.settings.guidance_scale = 1.0).await;
    refuse(|spec| spec.product = asyncdiff_coordinator::Product::Picture).await;
}
