//! What a worker cannot do it says, as a typed failure, before anything is loaded.

#![allow(clippy::unwrap_used)]

mod support;

use asyncdiff_common::wire::{Assignment, DenoiserSpec, Tracing, WorkerFailure, WorkerReply, WorkerRequest};
use asyncdiff_plan::{CutShape, Epoch, JobId, LayerId, Rank, StepIndex, ValueId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;
use asyncdiff_worker::WorkerConfig;
use support::denoiser::{TinyJob, schedule, spec};
use support::fake_coordinator::FakeCoordinator;
use support::{TestWorker, simulated};

const JOB: JobId = JobId(7);

struct Single {
    coordinator: FakeCoordinator,
    worker: PeerName,
    _process: TestWorker,
}

impl Single {
    async fn start(config: WorkerConfig) -> Self {
        let hub = SimulatedNetwork::new();
        let mut coordinator = FakeCoordinator::new(&hub);
        let process = TestWorker::start(&hub, "w0", config);
        let worker = coordinator.welcome().await;
        Self { coordinator, worker, _process: process }
    }

    fn assignment(&mut self) -> Assignment {
        let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
        job.assignment(&mut self.coordinator, JOB, Rank(0), std::slice::from_ref(&self.worker))
    }

    async fn assign(&mut self, assignment: Assignment) -> Result<WorkerReply, WorkerFailure> {
        let body = WorkerRequest::Assign(Box::new(assignment));
        self.coordinator.request(&self.worker.clone(), body).await
    }
}

/// The failure of an assignment that was changed before it was sent.
async fn failure_of(change: impl FnOnce(&mut Assignment)) -> WorkerFailure {
    let mut single = Single::start(simulated()).await;
    let mut assignment = single.assignment();
    change(&mut assignment);
    single.assign(assignment).await.unwrap_err()
}

fn is_bad_assignment(failure: &WorkerFailure) -> bool {
    matches!(failure, WorkerFailure::BadAssignment { .. })
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_is_not_listed_is_named() {
    let failure = failure_of(|assignment| assignment.weights.retain(|entry| entry.name != "conv_out.bias")).await;
    assert!(matches!(&failure, WorkerFailure::BadWeight { name, .. } if name == "conv_out.bias"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_parameter_of_another_shape_is_named() {
    let failure = failure_of(|assignment| {
        let entry = assignment.weights.iter_mut().find(|entry| entry.name == "conv_in.weight").unwrap();
        entry.shape = vec![16, 4, 3, 5];
    })
    .await;
    assert!(
        matches!(&failure, WorkerFailure::BadWeight { name, reason } if name == "conv_in.weight"
        && reason.contains("[16, 4, 3, 5]") && reason.contains("[16, 4, 3, 3]")),
        "{failure}"
    );
}

#[tokio::test(start_paused = true)]
async fn parameters_with_other_bytes_than_their_digest_are_refused() {
    let mut single = Single::start(simulated()).await;
    let assignment = single.assignment();
    single.coordinator.weights.corrupt(assignment.weights[0].digest);
    let failure = single.assign(assignment).await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::BadWeight { reason, .. } if reason.contains("digest")), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn too_little_memory_is_said_before_anything_is_asked_for() {
    let mut single = Single::start(WorkerConfig { memory_bytes: 1 << 20, ..simulated() }).await;
    let assignment = single.assignment();
    let failure = single.assign(assignment).await.unwrap_err();
    let WorkerFailure::OutOfMemory { needed_bytes, available_bytes } = failure else { panic!("{failure}") };
    assert!(needed_bytes > available_bytes && available_bytes == 1 << 20);
    assert_eq!(single.coordinator.asked_weights, 0);
}

#[tokio::test(start_paused = true)]
async fn a_denoiser_of_an_unsupported_family_is_refused() {
    let failure = failure_of(|assignment| {
        let config = spec().config.replace("UNet2DConditionModel", "FluxTransformer2DModel");
        assignment.denoiser = DenoiserSpec { config, ..spec() };
    })
    .await;
    assert!(matches!(&failure, WorkerFailure::BadAssignment { reason } if reason.contains("FluxTransformer2DModel")));
}

#[tokio::test(start_paused = true)]
async fn ids_out_of_range_are_refused_and_panic_nothing() {
    let far = LayerId(60_000);
    assert!(is_bad_assignment(&failure_of(|assignment| assignment.plan.components[0].1.push(far)).await));
    assert!(is_bad_assignment(&failure_of(|assignment| assignment.plan.runs[0].timestep = StepIndex(9)).await));
    assert!(is_bad_assignment(&failure_of(|assignment| assignment.rows = 0).await));
    assert!(is_bad_assignment(&failure_of(|assignment| assignment.timesteps.clear()).await));
    let read = asyncdiff_plan::Read { value: ValueId(60_000), from: vec![] };
    assert!(is_bad_assignment(&failure_of(|assignment| assignment.plan.runs[0].reads.push(read)).await));
}

#[tokio::test(start_paused = true)]
async fn a_newer_epoch_replaces_an_older_one_and_not_the_other_way() {
    let mut single = Single::start(simulated()).await;
    let assignment = single.assignment();
    assert!(single.assign(assignment.clone()).await.is_ok());
    let again = single.assign(assignment.clone()).await;
    assert!(matches!(again, Err(WorkerFailure::Unexpected { .. })), "{again:?}");
    assert!(single.assign(Assignment { epoch: Epoch(2), trace: Tracing::Off, ..assignment }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_was_loaded_ahead_is_found_by_the_assignment_that_follows() {
    let mut single = Single::start(simulated()).await;
    let assignment = single.assignment();
    assert!(single.assign(assignment).await.is_ok());
    let worker = single.worker.clone();
    // Other components of the same denoiser, for the same worker.
    let job = TinyJob::new(2, 1, CutShape::Contiguous, schedule(2, 1, 1));
    let next = job.assignment(&mut single.coordinator, JOB, Rank(0), std::slice::from_ref(&worker));
    let ahead = Assignment { epoch: Epoch(2), ..next.clone() };
    let before = single.coordinator.asked_weights;
    let loaded = single.coordinator.request(&worker, WorkerRequest::Preload(Box::new(ahead))).await;
    let Ok(WorkerReply::Assigned { resident_bytes }) = loaded else { panic!("{loaded:?}") };
    let asked = single.coordinator.asked_weights;
    assert!(resident_bytes > 0 && asked > before);
    assert!(single.assign(Assignment { epoch: Epoch(3), ..next }).await.is_ok());
    assert_eq!(single.coordinator.asked_weights, asked, "it was loaded twice");
    let released = single.coordinator.request(&worker, WorkerRequest::ReleaseJob { job: JOB }).await;
    assert!(matches!(released, Ok(WorkerReply::Released { .. })));
}

#[tokio::test(start_paused = true)]
async fn layers_of_a_simulated_device_are_measured_as_it_is_told() {
    let mut single = Single::start(simulated()).await;
    let layers = vec![LayerId(0), LayerId(3)];
    let body = WorkerRequest::Measure { denoiser: spec(), rows: 2, layers };
    let worker = single.worker.clone();
    let measured = single.coordinator.request(&worker, body).await;
    let Ok(WorkerReply::Measured { layers }) = measured else { panic!("{measured:?}") };
    assert_eq!(layers.iter().map(|layer| layer.seconds).collect::<Vec<_>>(), [0.001, 0.001]);
    assert!(layers.iter().all(|layer| layer.resident_bytes > 0), "{layers:?}");
}
