//! The session with the coordinator and what strangers may send.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{DType, TensorHeader, TensorName, ToCoordinator, ToWorker, WorkerRequest};
use asyncdiff_plan::{CutShape, Delta, DeltaBits, Encoding, Epoch, JobId, Rank, StepIndex};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{AdmitEverything, CloseReason, Farewell, Misbehaviour, Refusal, TensorFrame};
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use asyncdiff_worker::{Membership, WorkerConfig, WorkerError};
use support::denoiser::{LATENTS, ROWS, TinyJob, schedule};
use support::fake_coordinator::{Event, FakeCoordinator};
use support::{TestWorker, simulated};
use tokio::sync::watch;
use tokio::time::Instant;

const JOB: JobId = JobId(7);

async fn joined() -> (SimulatedNetwork, FakeCoordinator, TestWorker, PeerName) {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let worker = TestWorker::start(&hub, "w0", simulated());
    let name = coordinator.welcome().await;
    (hub, coordinator, worker, name)
}

fn latents(job: JobId, epoch: u32, shape: &[u32]) -> TensorFrame {
    let name = TensorName::Latents(StepIndex(0));
    let header = TensorHeader {
        job,
        epoch: Epoch(epoch),
        name,
        shape: shape.to_vec(),
        dtype: DType::F32,
        delta: None,
        part: None,
    };
    let elements: u32 = shape.iter().product();
    TensorFrame { header, payload: vec![0; 4 * elements as usize].into() }
}

/// Why a worker with an assigned job closed the link after this tensor.
async fn refusal_of(frame: TensorFrame) -> Refusal {
    let (_hub, mut coordinator, _worker, name) = joined().await;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    assert!(job.assign(&mut coordinator, JOB, std::slice::from_ref(&name)).await[0].is_ok());
    let link = coordinator.workers[&name].link.clone();
    link.send_tensor(frame).await.unwrap();
    match link.closed().await {
        CloseReason::AccusedByPeer(Misbehaviour::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn tensors_that_the_plan_does_not_have_are_refused() {
    assert_eq!(refusal_of(latents(JobId(99), 1, &LATENTS)).await, Refusal::UnknownJob { job: JobId(99) });
    let wrong_shape = refusal_of(latents(JOB, 1, &[2, 4, 8, 9])).await;
    assert_eq!(wrong_shape, Refusal::WrongShape { expected: LATENTS.to_vec(), found: vec![2, 4, 8, 9] });
    assert_eq!(refusal_of(latents(JOB, 2, &LATENTS)).await, Refusal::Unexpected);
    let mut differences = latents(JOB, 1, &LATENTS);
    let found = Some(Delta { bits: DeltaBits::Eight, base: StepIndex(0) });
    differences.header.delta = found;
    differences.payload = vec![0; differences.header.payload_bytes().unwrap() as usize].into();
    assert_eq!(refusal_of(differences).await, Refusal::WrongDelta { expected: None, found });
    let mut weight = latents(JOB, 1, &LATENTS);
    weight.header.name = TensorName::Weight([1; 32]);
    assert_eq!(refusal_of(weight).await, Refusal::Unexpected);
    let mut prediction = latents(JOB, 1, &LATENTS);
    prediction.header.name = TensorName::NoisePrediction(StepIndex(0), asyncdiff_plan::Lane::Whole);
    assert_eq!(refusal_of(prediction).await, Refusal::Unexpected);
}

/// Why a worker refused a hidden state of a peer that is not quite what the plan says; `change` spoils it.
async fn refusal_from_peer(change: impl FnOnce(&mut TensorHeader)) -> Refusal {
    let (hub, mut coordinator, worker, name) = joined().await;
    let sender_worker = TestWorker::start(&hub, "w1", simulated());
    let sender = coordinator.welcome().await;
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1)).encoded(Encoding::Delta8);
    let assignment = job.assignment(&mut coordinator, JOB, Rank(1), &[sender.clone(), name.clone()]);
    let first = assignment.plan.receives.iter().find(|transfer| transfer.delta().is_some()).copied().unwrap();
    assert!(coordinator.request(&name, WorkerRequest::Assign(Box::new(assignment))).await.is_ok());
    sender_worker.stop().await.unwrap();
    let process = hub.process(sender);
    let link = process.connect(&worker.name, &process.endpoint(), Arc::new(AdmitEverything)).await.unwrap();
    let row = &job.program.program.layer(first.instance.value.layer()).writes.shape;
    let shape: Vec<u32> = std::iter::once(ROWS).chain(row.iter().copied()).collect();
    let name = TensorName::HiddenState(first.instance);
    let (job, epoch, dtype, delta) = (JOB, Epoch(1), DType::F32, first.delta());
    let mut header = TensorHeader { job, epoch, name, shape, dtype, delta, part: None };
    change(&mut header);
    let payload = vec![0; header.payload_bytes().unwrap() as usize].into();
    link.sender.send_tensor(TensorFrame { header, payload }).await.unwrap();
    match link.sender.closed().await {
        CloseReason::AccusedByPeer(Misbehaviour::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn hidden_states_in_another_encoding_or_of_another_base_than_the_plans_are_refused() {
    let planned = Some(Delta { bits: DeltaBits::Eight, base: StepIndex(0) });
    for found in [
        None,
        Some(Delta { bits: DeltaBits::Four, base: StepIndex(0) }),
        planned.map(|delta| Delta { base: StepIndex(1), ..delta }),
    ] {
        let refusal = refusal_from_peer(|header| header.delta = found).await;
        assert_eq!(refusal, Refusal::WrongDelta { expected: planned, found });
    }
    let refusal = refusal_from_peer(|header| header.dtype = DType::F16).await;
    assert_eq!(refusal, Refusal::WrongDType { expected: DType::F32, found: DType::F16 });
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_and_an_ended_job_are_late_and_close_nothing() {
    let (_hub, mut coordinator, _worker, name) = joined().await;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    assert!(job.assign(&mut coordinator, JOB, std::slice::from_ref(&name)).await[0].is_ok());
    let link = coordinator.workers[&name].link.clone();
    link.send_tensor(latents(JOB, 0, &LATENTS)).await.unwrap();
    coordinator.request(&name, WorkerRequest::ReleaseJob { job: JOB }).await.unwrap();
    link.send_tensor(latents(JOB, 1, &LATENTS)).await.unwrap();
    assert!(coordinator.request(&name, WorkerRequest::ReleaseJob { job: JOB }).await.is_ok());
    assert_eq!(link.close_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_among_the_workers_is_refused() {
    let (hub, mut coordinator, worker, name) = joined().await;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    assert!(job.assign(&mut coordinator, JOB, std::slice::from_ref(&name)).await[0].is_ok());
    let stranger = hub.process(PeerName::worker("stranger").unwrap());
    let link = stranger.connect(&worker.name, &stranger.endpoint(), Arc::new(AdmitEverything)).await.unwrap();
    link.sender.send_tensor(latents(JOB, 1, &LATENTS)).await.unwrap();
    let reason = link.sender.closed().await;
    assert!(matches!(reason, CloseReason::AccusedByPeer(Misbehaviour::Refused { .. })), "{reason:?}");
    assert_eq!(coordinator.workers[&name].link.close_reason(), None, "the coordinator's link stays");
}

#[tokio::test(start_paused = true)]
async fn the_worker_beats_as_often_as_it_is_told() {
    let (_hub, mut coordinator, _worker, _name) = joined().await;
    let start = Instant::now();
    for beat in 1..=8 {
        let beats = |_: &PeerName, event: &Event| match event {
            Event::Control(ToCoordinator::Heartbeat { sequence }) => Some(*sequence),
            _ => None,
        };
        assert_eq!(coordinator.wait_for(beats).await, beat);
    }
    let elapsed = start.elapsed();
    assert!(elapsed >= Duration::from_millis(1700) && elapsed <= Duration::from_millis(2000), "{elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_comes_back_to_a_coordinator_that_was_away_and_keeps_what_it_loaded() {
    let (hub, mut coordinator, _worker, name) = joined().await;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    assert!(job.assign(&mut coordinator, JOB, std::slice::from_ref(&name)).await[0].is_ok());
    hub.vanish(&PeerName::Coordinator);
    tokio::time::advance(Duration::from_secs(20)).await;
    let mut coordinator = FakeCoordinator::new(&hub);
    assert_eq!(coordinator.welcome().await, name);
    assert!(job.assign(&mut coordinator, JOB, std::slice::from_ref(&name)).await[0].is_ok());
    assert_eq!(coordinator.asked_weights, 0, "the component was kept");
    let predictions = job.denoise(&mut coordinator, JOB, &[name]).await.unwrap();
    assert_eq!(predictions, job.in_process());
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_refused_ends_and_says_why() {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let mut worker = TestWorker::start(&hub, "w0", simulated());
    let name = coordinator.accept().await;
    coordinator.tell(&name, &ToWorker::Refused { reason: "a newer process has your name".into() }).await;
    let error = worker.ended().await.unwrap_err();
    assert!(matches!(&error, WorkerError::Refused { reason } if reason.contains("newer process")), "{error}");
    assert_eq!(error.exit_code().number(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_place_is_taken_ends() {
    let (_hub, coordinator, mut worker, name) = joined().await;
    coordinator.workers[&name].link.close(Farewell::Superseded);
    assert!(matches!(worker.ended().await, Err(WorkerError::Superseded)));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_stopped_says_that_it_leaves() {
    let (_hub, mut coordinator, worker, name) = joined().await;
    worker.stop().await.unwrap();
    let leaving = |from: &PeerName, event: &Event| {
        (*from == name && matches!(event, Event::Control(ToCoordinator::Leaving { .. }))).then_some(())
    };
    coordinator.wait_for(leaving).await;
    let reason = coordinator.workers[&name].link.closed().await;
    assert_eq!(reason, CloseReason::ClosedByPeer(Farewell::Done));
}

#[tokio::test(start_paused = true)]
async fn membership_is_told_to_who_asked() {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let (membership, mut changes) = watch::channel(Membership::Joining);
    let _worker = TestWorker::start(&hub, "w0", WorkerConfig { membership: Some(membership), ..simulated() });
    coordinator.accept().await;
    assert_eq!(*changes.borrow(), Membership::Joining);
    let name = PeerName::worker("w0").unwrap();
    coordinator.tell(&name, &ToWorker::Welcome { heartbeat_interval: Duration::ZERO }).await;
    assert!(changes.wait_for(|membership| *membership == Membership::Member).await.is_ok());
    hub.vanish(&PeerName::Coordinator);
    assert!(changes.wait_for(|membership| *membership == Membership::Joining).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_message_close_the_link_and_panic_nothing() {
    let (_hub, mut coordinator, _worker, name) = joined().await;
    let link = coordinator.workers[&name].link.clone();
    link.send_control(vec![250; 40].into()).await.unwrap();
    let reason = link.closed().await;
    assert!(matches!(reason, CloseReason::AccusedByPeer(Misbehaviour::Malformed { .. })), "{reason:?}");
    assert_eq!(coordinator.welcome().await, name, "it tries again");
}
