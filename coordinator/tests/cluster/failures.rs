//! Lost workers, failing workers, failing checkpoints: a job goes on as long as somebody is left, and says what happened; what cannot be cured
//! ends it with an error that names who and what, and nothing else.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncdiff_coordinator::job::{Fault, JobRecord, JobState};
use asyncdiff_coordinator::local_workers::{Pace, SimulatedWorker};
use asyncdiff_coordinator::{ClusterError, Limits, ModelStore, run_in_process};
use asyncdiff_model::checkpoint::{FormulaWeights, StoredTensor, Weights, WeightsError};
use asyncdiff_plan::{TimeShift, Wishes};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::network::SimulatedNetwork;
use tokio::time::Instant;

use super::support::{LONG, SLOW, TestCluster, ended, plain_job, tensor_job, tiny_model, tiny_store, wishes};

/// The job went on after the loss of `b`, which was noticed in time.
fn check_survived(record: &JobRecord, since: Instant, job_started: Instant) {
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    let recovery = &record.recoveries[0];
    assert!(recovery.what.contains("worker b was lost"), "{recovery:?}");
    assert!(recovery.step >= 3, "{recovery:?}");
    let noticed = job_started + Duration::from_secs_f64(recovery.after_seconds);
    assert!(
        noticed.duration_since(since) < Duration::from_secs(2),
        "noticed after {:?}",
        noticed.duration_since(since)
    );
    assert!(record.warnings.iter().any(|warning| warning.contains("going on from step")), "{:?}", record.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_job_survives_a_killed_worker_and_the_next_one_goes_on_with_who_is_left() {
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let started = Instant::now();
    let (handle, next) = (cluster.submit(plain_job(12)).await, cluster.submit(plain_job(2)).await);
    cluster.wait_for_steps(&handle, 3).await;
    let since = Instant::now();
    cluster.hub.vanish(&PeerName::worker("b").unwrap());
    check_survived(&ended(handle).await, since, started);
    assert_eq!(ended(next).await.state, JobState::Done);
}

#[tokio::test(start_paused = true)]
async fn a_job_survives_a_worker_that_falls_silent() {
    let hub = SimulatedNetwork::with_faults(7);
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b"], SLOW, Limits::default()).await;
    let started = Instant::now();
    let handle = cluster.submit(plain_job(12)).await;
    cluster.wait_for_steps(&handle, 3).await;
    let since = Instant::now();
    let cut = Faults { cut: true, ..Faults::default() };
    cluster.hub.set_faults(&PeerName::worker("b").unwrap(), &PeerName::Coordinator, &cut);
    check_survived(&ended(handle).await, since, started);
}

#[tokio::test(start_paused = true)]
async fn an_exact_job_that_lost_a_worker_has_the_bits_of_one_that_did_not() {
    let exact = || {
        let wishes =
            Wishes { components: Some(2), warm_up: Some(12), split_guidance: Some(false), ..Wishes::default() };
        // Without guidance, so that there are no micro-batches whose rounding depends on the placement.
        let mut spec = tensor_job(12, 1.0, wishes);
        spec.settings.scheduler = Some("dpmpp-2m".to_owned());
        spec
    };
    let undisturbed = run_in_process(&tiny_store(), exact(), 1).unwrap();
    let cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(exact()).await;
    cluster.wait_for_steps(&handle, 5).await;
    cluster.hub.vanish(&PeerName::worker("b").unwrap());
    let id = handle.id;
    assert_eq!(ended(handle).await.recoveries.len(), 1);
    let outcome = cluster.cluster.outcome(id).await.unwrap().unwrap();
    assert_eq!(outcome.latents.1, undisturbed.latents);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_workers_are_all_lost_waits_for_one_and_goes_on_where_it_was() {
    let mut cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(plain_job(10)).await;
    cluster.wait_for_steps(&handle, 4).await;
    cluster.workers.clear();
    let waiting = async {
        while cluster.cluster.job(handle.id).await.unwrap().phase != "waiting for a worker to join" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let job = cluster.cluster.job(handle.id).await.unwrap();
    assert_eq!(job.state, JobState::Running);
    assert!(job.progress.0 >= 4, "{:?}", job.progress);
    let newcomer = SimulatedWorker::start(&cluster.hub, "c", SLOW).unwrap();
    let record = ended(handle).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(record.summary.unwrap().workers, ["c"]);
    assert!(record.recoveries.iter().all(|recovery| recovery.lost_seconds >= 60.0), "{:?}", record.recoveries);
    drop(newcomer);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_nobody_joins_for_ends_after_the_time_that_was_set() {
    let limits = Limits { wait_for_workers: Duration::from_secs(20), ..Limits::default() };
    let mut cluster = TestCluster::with_store(tiny_store(), &["a"], SLOW, limits).await;
    let handle = cluster.submit(plain_job(10)).await;
    cluster.wait_for_steps(&handle, 2).await;
    let since = Instant::now();
    cluster.workers.clear();
    let error = ended(handle).await.error.unwrap();
    assert!(error.message.contains("no worker joined within 20"), "{error:?}");
    assert!(error.hint.contains("wait_for_workers"), "{error:?}");
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    let worker = SimulatedWorker::start(&cluster.hub, "a", SLOW).unwrap();
    let mut less_patient = plain_job(10);
    less_patient.settings.wait_for_workers_seconds = Some(3);
    let handle = cluster.submit(less_patient).await;
    cluster.wait_for_steps(&handle, 2).await;
    drop(worker);
    let error = ended(handle).await.error.unwrap();
    assert!(error.message.contains("no worker joined within 3"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_without_a_worker_whose_predictions_do_not_come_and_names_it() {
    let hub = SimulatedNetwork::with_faults(8);
    let limits = Limits { step_within: Duration::from_secs(100), ..Limits::default() };
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b"], SLOW, limits).await;
    // Its heartbeats come as before: only tensors are slow.
    let slow = Faults { bytes_per_second: NonZeroU64::new(1), ..Faults::default() };
    cluster.hub.set_faults(&PeerName::worker("b").unwrap(), &PeerName::Coordinator, &slow);
    let record = cluster.run(plain_job(5)).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(
        record.recoveries[0].what.contains("worker b sent no noise prediction of step 0"),
        "{:?}",
        record.recoveries
    );
    assert_eq!(record.summary.unwrap().workers, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_device_that_hangs_is_found_within_seconds_whoever_waits_for_it() {
    // Either has one of two components; the one that makes the noise predictions waits for the other.
    for hung in ["a", "b"] {
        let mut cluster = TestCluster::start(&[], SLOW).await;
        let hangs = Arc::new(AtomicBool::new(false));
        for name in ["a", "b"] {
            let hangs = Arc::clone(&hangs);
            let pace = move || if name == hung && hangs.load(Ordering::Relaxed) { 3.0e3 } else { 3.0e7 };
            cluster.workers.push(SimulatedWorker::with_changing_pace(&cluster.hub, name, pace).unwrap());
        }
        cluster.cluster.wait_for_workers(2, LONG).await.unwrap();
        let handle = cluster.submit(tensor_job(12, 7.5, wishes(2, 1, 1, TimeShift::Off))).await;
        cluster.wait_for_steps(&handle, 3).await;
        hangs.store(true, Ordering::Relaxed);
        let since = Instant::now();
        let record = ended(handle).await;
        assert_eq!(record.state, JobState::Done, "{:?}", record.error);
        let expected = format!("worker {hung}'s device hangs");
        assert!(record.recoveries[0].what.contains(&expected), "{:?}", record.recoveries);
        assert_eq!(record.recoveries.len(), 1, "{:?}", record.recoveries);
        let waited = record.recoveries[0].what.split("did nothing for ").nth(1).unwrap().trim_end_matches('s');
        assert!(waited.parse::<f64>().unwrap() <= 2.0, "{:?}", record.recoveries);
        assert_ne!(record.summary.unwrap().workers, [hung]);
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_past_a_link_between_two_workers_that_does_not_carry() {
    let hub = SimulatedNetwork::with_faults(9);
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b"], SLOW, Limits::default()).await;
    let handle = cluster.submit(tensor_job(12, 7.5, wishes(2, 1, 1, TimeShift::Off))).await;
    cluster.wait_for_steps(&handle, 3).await;
    let (a, b) = (PeerName::worker("a").unwrap(), PeerName::worker("b").unwrap());
    cluster.hub.set_faults(&a, &b, &Faults { cut: true, ..Faults::default() });
    cluster.hub.set_faults(&b, &a, &Faults { cut: true, ..Faults::default() });
    let record = ended(handle).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(record.summary.unwrap().workers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_carries_one_way_only_is_given_up_as_soon_as_both_ends_are_heard_and_no_plan_goes_over_it_again() {
    let hub = SimulatedNetwork::with_faults(11);
    let cluster = TestCluster::on(hub, tiny_store(), &["a", "b", "c"], SLOW, Limits::default()).await;
    let (started, split) = (Instant::now(), Wishes { split_guidance: Some(false), ..wishes(3, 1, 1, TimeShift::Off) });
    let handle = cluster.submit(tensor_job(20, 7.5, split)).await;
    cluster.wait_for_steps(&handle, 3).await;
    let (a, b) = (PeerName::worker("a").unwrap(), PeerName::worker("b").unwrap());
    let since = Instant::now();
    cluster.hub.set_faults(&a, &b, &Faults { cut: true, ..Faults::default() });
    let record = ended(handle).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert_eq!(record.recoveries.len(), 1, "{:?}", record.recoveries);
    assert!(record.recoveries[0].what.contains("the link to worker"), "{:?}", record.recoveries);
    let noticed = started + Duration::from_secs_f64(record.recoveries[0].after_seconds) - since;
    // A simulated link is lost after two seconds; a heartbeat follows.
    assert!(noticed < Duration::from_millis(2300), "noticed after {noticed:?}");
    // Both ends are there, and may be used, but not by one job that needs the path.
    assert_eq!(cluster.cluster.workers().await.unwrap().len(), 3);
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
async fn a_newer_process_of_a_name_takes_the_older_ones_place_in_the_running_job() {
    let mut cluster = TestCluster::start(&["a", "b"], SLOW).await;
    let handle = cluster.submit(plain_job(12)).await;
    cluster.wait_for_steps(&handle, 3).await;
    let newer = SimulatedWorker::start(&cluster.hub, "b", SLOW).unwrap();
    let record = ended(handle).await;
    assert_eq!(record.state, JobState::Done, "{:?}", record.error);
    assert!(record.recoveries[0].what.contains("worker b was lost"), "{:?}", record.recoveries);
    assert_eq!(record.summary.unwrap().workers, ["a", "b"]);
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
