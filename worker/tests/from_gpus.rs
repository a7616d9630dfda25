//! What comes from workers that compute on GPUs, at a worker that does not: parts, other elements, and offers of what it has not got.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, TensorHeader, TensorName, TensorPart, ToPeer, WorkerRequest};
use asyncdiff_model::families::ENCODER_HIDDEN_STATES;
use asyncdiff_model::formula;
use asyncdiff_plan::{CutShape, Epoch, JobId, Rank, StepIndex, Transfer};
use asyncdiff_transport::link::{AdmitEverything, CloseReason, Link, Misbehaviour, Refusal, TensorFrame};
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use support::denoiser::{CONDITION, LATENTS, ROWS, TinyJob, schedule};
use support::fake_coordinator::{Event, FakeCoordinator, floats};
use support::{TestWorker, simulated};

const JOB: JobId = JobId(7);

/// A worker that has the last part of a job, and a link to it of a peer that pretends to have the first.
struct Scene {
    coordinator: FakeCoordinator,
    job: TinyJob,
    worker: TestWorker,
    peer: Link,
}

impl Scene {
    async fn start() -> Self {
        let hub = SimulatedNetwork::new();
        let mut coordinator = FakeCoordinator::new(&hub);
        let worker = TestWorker::start(&hub, "w0", simulated());
        let name = coordinator.welcome().await;
        let pretended = TestWorker::start(&hub, "w1", simulated());
        let sender = coordinator.welcome().await;
        let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
        let assignment = job.assignment(&mut coordinator, JOB, Rank(1), &[sender.clone(), name.clone()]);
        assert!(coordinator.request(&name, WorkerRequest::Assign(Box::new(assignment))).await.is_ok());
        pretended.stop().await.unwrap();
        let process = hub.process(sender);
        let peer = process.connect(&worker.name, &process.endpoint(), Arc::new(AdmitEverything)).await.unwrap();
        Self { coordinator, job, worker, peer }
    }

    /// What the first step needs of the other part.
    fn transfers(&self) -> Vec<Transfer> {
        let receives = self.job.placed.part(Rank(1)).receives;
        receives.into_iter().filter(|transfer| transfer.instance.step == StepIndex(0)).collect()
    }

    /// A header, and elements that bf16 has.
    fn hidden_state(&self, transfer: &Transfer) -> (TensorHeader, Vec<f32>) {
        let row = &self.job.program.program.layer(transfer.instance.value.layer()).writes.shape;
        let shape: Vec<u32> = std::iter::once(ROWS).chain(row.iter().copied()).collect();
        let axes: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
        let elements = formula::noise("hidden", &axes, u64::from(transfer.instance.value.0));
        let elements = elements.iter().map(|element| f32::from_bits(element.to_bits() & 0xffff_0000)).collect();
        let name = TensorName::HiddenState(transfer.instance);
        let header =
            TensorHeader { job: JOB, epoch: Epoch(1), name, shape, dtype: DType::F32, delta: None, part: None };
        (header, elements)
    }

    async fn send(&self, header: TensorHeader, payload: Vec<u8>) {
        self.peer.sender.send_tensor(TensorFrame { header, payload: payload.into() }).await.unwrap();
    }

    async fn say(&self, message: &ToPeer) {
        self.peer.sender.send_control(codec::encode(message).unwrap().into()).await.unwrap();
    }

    /// The first noise prediction, once everything else is there.
    async fn prediction(&mut self) -> Vec<f32> {
        let name = TensorName::Condition(ENCODER_HIDDEN_STATES.to_owned());
        let worker = self.worker.name.clone();
        let values = |shape: &[u32]| {
            let axes: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
            formula::noise("given", &axes, 1)
        };
        self.coordinator.send(&worker, JOB, name, &CONDITION, &values(&CONDITION)).await;
        let of_first = |event: &Event| match event {
            Event::Tensor(frame) => match frame.header.name {
                TensorName::NoisePrediction(StepIndex(0), _) => Some(floats(&frame.payload)),
                _ => None,
            },
            _ => None,
        };
        if self.job.placed.part(Rank(1)).runs.iter().any(|run| run.latents == Some(StepIndex(0))) {
            self.coordinator.send(&worker, JOB, TensorName::Latents(StepIndex(0)), &LATENTS, &values(&LATENTS)).await;
        }
        self.coordinator.wait_for(|_, event| of_first(event)).await
    }

    async fn accusation(&self) -> Misbehaviour {
        match self.peer.sender.closed().await {
            CloseReason::AccusedByPeer(misbehaviour) => misbehaviour,
            other => panic!("{other:?}"),
        }
    }
}

fn bytes_of(elements: &[f32], dtype: DType) -> Vec<u8> {
    let upper = |element: &f32| element.to_le_bytes()[2..].to_vec();
    match dtype {
        DType::Bf16 => elements.iter().flat_map(upper).collect(),
        _ => elements.iter().flat_map(|element| element.to_le_bytes()).collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_gpus_elements_are_the_value_that_they_make_whatever_their_order() {
    let mut predictions = Vec::new();
    for (dtype, parts) in [(DType::F32, 1), (DType::Bf16, 1), (DType::Bf16, 3), (DType::F32, 4)] {
        let mut scene = Scene::start().await;
        for transfer in scene.transfers() {
            let (header, elements) = scene.hidden_state(&transfer);
            let step = elements.len().div_ceil(parts);
            for (number, chunk) in elements.chunks(step).enumerate().rev() {
                let [first, count] = [number * step, chunk.len()].map(|at| at as u32);
                let part = (parts > 1).then_some(TensorPart { first, elements: count });
                scene.send(TensorHeader { dtype, part, ..header.clone() }, bytes_of(chunk, dtype)).await;
            }
        }
        predictions.push(scene.prediction().await);
    }
    assert!(predictions[0].iter().all(|element| element.is_finite()));
    for other in &predictions[1..] {
        assert_eq!(*other, predictions[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_that_has_come_is_the_end_of_the_job_and_one_out_of_place_of_the_link() {
    let mut scene = Scene::start().await;
    let (header, elements) = scene.hidden_state(&scene.transfers()[0]);
    let part = Some(TensorPart { first: 2, elements: 4 });
    for _ in 0..2 {
        scene.send(TensorHeader { part, ..header.clone() }, bytes_of(&elements[2..6], DType::F32)).await;
    }
    let (_, failure) = scene.coordinator.job_failure(JOB).await;
    assert!(failure.to_string().contains("a value in parts"), "{failure}");

    let scene = Scene::start().await;
    let name = TensorName::HiddenState(asyncdiff_plan::Instance {
        step: StepIndex(3000),
        ..match header.name {
            TensorName::HiddenState(instance) => instance,
            other => panic!("{other:?}"),
        }
    });
    scene.send(TensorHeader { part, name, ..header }, bytes_of(&elements[2..6], DType::F32)).await;
    assert!(matches!(scene.accusation().await, Misbehaviour::Refused { refusal: Refusal::Unexpected, .. }));
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_a_gpu_refuses_a_communicator_and_the_link_stays() {
    let mut scene = Scene::start().await;
    scene.say(&ToPeer::NcclOffered { id: vec![0; 128] }).await;
    let answer: ToPeer = codec::decode(&scene.peer.control.control().await.unwrap()).unwrap();
    assert!(matches!(&answer, ToPeer::NcclRefused { reason } if reason.contains("no GPU")), "{answer:?}");
    for transfer in scene.transfers() {
        let (header, elements) = scene.hidden_state(&transfer);
        scene.send(header, bytes_of(&elements, DType::F32)).await;
    }
    assert!(!scene.prediction().await.is_empty());
    scene.say(&ToPeer::NcclOffered { id: vec![0; 128] }).await;
    assert!(matches!(scene.accusation().await, Misbehaviour::Malformed { reason, .. } if reason.contains("one")));
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_without_a_communicator_closes_the_link() {
    let scene = Scene::start().await;
    let (header, _) = scene.hidden_state(&scene.transfers()[0]);
    scene.say(&ToPeer::NcclSent { header }).await;
    let accusation = scene.accusation().await;
    assert!(matches!(&accusation, Misbehaviour::Malformed { reason, .. } if reason.contains("communicator")));
}
