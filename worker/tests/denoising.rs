//! Whole jobs on one and two workers: the bits are those of one thread, and what fails a job fails nothing else.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncdiff_common::wire::{RankReport, TraceKind, WorkerFailure, WorkerReply, WorkerRequest};
use asyncdiff_model::component::layer_memory;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::{CutShape, Encoding, Guidance, JobId, Schedule, WarmUpBatch};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;
use asyncdiff_worker::{DeviceKind, LayerTime, WorkerConfig};
use candle_core::Device;
use support::denoiser::{Predictions, TinyJob, schedule};
use support::fake_coordinator::FakeCoordinator;
use support::{TestWorker, simulated};

const JOB: JobId = JobId(7);

/// A coordinator with workers that are members; `config` for each.
struct Cluster {
    hub: SimulatedNetwork,
    coordinator: FakeCoordinator,
    names: Vec<PeerName>,
    _workers: Vec<TestWorker>,
}

impl Cluster {
    async fn start(configs: Vec<WorkerConfig>) -> Self {
        let hub = SimulatedNetwork::new();
        let mut coordinator = FakeCoordinator::new(&hub);
        let (mut names, mut workers) = (Vec::new(), Vec::new());
        for (index, config) in configs.into_iter().enumerate() {
            workers.push(TestWorker::start(&hub, &format!("w{index}"), config));
            names.push(coordinator.welcome().await);
        }
        Self { hub, coordinator, names, _workers: workers }
    }

    async fn run(&mut self, job: &TinyJob, id: JobId) -> Result<Predictions, (PeerName, WorkerFailure)> {
        for answer in job.assign(&mut self.coordinator, id, &self.names).await {
            assert!(matches!(answer, Ok(WorkerReply::Assigned { .. })), "{answer:?}");
        }
        job.denoise(&mut self.coordinator, id, &self.names).await
    }

    async fn release(&mut self, worker: usize, job: JobId) -> RankReport {
        let name = self.names[worker].clone();
        match self.coordinator.request(&name, WorkerRequest::ReleaseJob { job }).await {
            Ok(WorkerReply::Released { report }) => *report,
            other => panic!("{other:?}"),
        }
    }
}

async fn check_bits(job: TinyJob) {
    let mut cluster = Cluster::start(vec![simulated(), simulated()]).await;
    let predictions = cluster.run(&job, JOB).await.unwrap();
    assert_eq!(predictions.len() as u32, job.steps());
    assert_eq!(predictions, job.in_process());
}

#[tokio::test(start_paused = true)]
async fn one_worker_computes_the_bits_of_one_thread() {
    check_bits(TinyJob::new(2, 1, CutShape::Contiguous, schedule(4, 1, 1))).await;
}

#[tokio::test(start_paused = true)]
async fn two_workers_compute_the_bits_of_one_thread() {
    check_bits(TinyJob::new(2, 2, CutShape::Contiguous, schedule(5, 1, 1))).await;
}

#[tokio::test(start_paused = true)]
async fn a_nested_cut_with_a_stride_computes_the_bits_of_one_thread() {
    check_bits(TinyJob::new(2, 2, CutShape::Nested, schedule(6, 2, 2))).await;
}

#[tokio::test(start_paused = true)]
async fn guidance_halves_in_lanes_compute_the_bits_of_one_thread() {
    let split = Schedule { guidance: Guidance::Split, warm_up_batch: WarmUpBatch::Halves, ..schedule(4, 1, 1) };
    check_bits(TinyJob::new(2, 2, CutShape::Contiguous, split)).await;
}

#[tokio::test(start_paused = true)]
async fn every_encoding_computes_the_bits_of_one_thread() {
    for encoding in Encoding::ALL {
        check_bits(TinyJob::new(2, 2, CutShape::Nested, schedule(5, 1, 2)).encoded(encoding)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn differences_from_two_halves_compute_the_bits_of_one_thread() {
    let halves = Schedule { guidance: Guidance::Batched, warm_up_batch: WarmUpBatch::Halves, ..schedule(6, 1, 1) };
    let job = TinyJob::new(2, 2, CutShape::Contiguous, halves).encoded(Encoding::Delta8);
    assert!(job.placed.transfers.iter().any(|transfer| transfer.delta().is_some()));
    check_bits(job).await;
}

#[tokio::test]
async fn devices_with_threads_compute_the_bits_of_one_thread() {
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    let config = || WorkerConfig { device: DeviceKind::Thread, ..WorkerConfig::new() };
    let mut cluster = Cluster::start(vec![config(), config()]).await;
    assert_eq!(cluster.run(&job, JOB).await.unwrap(), job.in_process());
}

#[tokio::test(start_paused = true)]
async fn a_released_job_reports_layers_bytes_and_a_trace() {
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    let mut cluster = Cluster::start(vec![simulated(), simulated()]).await;
    cluster.run(&job, JOB).await.unwrap();
    let report = cluster.release(0, JOB).await;
    let plan = job.placed.part(asyncdiff_plan::Rank(0));
    assert_eq!(report.layer_seconds.len(), job.program.program.with_shared(&plan.components[0].1).len());
    assert!(report.layer_seconds.iter().all(|(_, seconds)| (0.0009..0.0011).contains(seconds)));
    assert!(report.hidden_state_bytes_sent > 0 && report.resident_bytes > 0 && report.peak_memory_bytes > 0);
    let has = |wanted: fn(&TraceKind) -> bool| report.events.iter().any(|event| wanted(&event.kind));
    assert!(has(|kind| matches!(kind, TraceKind::Layer(_))) && has(|kind| matches!(kind, TraceKind::Sent(_))));
    assert!(has(|kind| matches!(kind, TraceKind::Received(_))) && has(|kind| *kind == TraceKind::Waited));
    assert_eq!(cluster.release(0, JOB).await.layer_seconds, [], "a second release finds nothing");
}

#[tokio::test(start_paused = true)]
async fn a_worker_holds_the_parameters_of_its_layers_and_no_others() {
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(2, 1, 1));
    let mut cluster = Cluster::start(vec![simulated(), simulated()]).await;
    let answers = job.assign(&mut cluster.coordinator, JOB, &cluster.names).await;
    for (rank, answer) in job.placed.ranks().zip(answers) {
        let Ok(WorkerReply::Assigned { resident_bytes }) = answer else { panic!("{answer:?}") };
        let parts = job.placed.part(rank).components;
        let layers = parts.iter().flat_map(|(_, layers)| job.program.program.with_shared(layers));
        let kernels = Kernels::for_device(&Device::Cpu);
        let share: u64 = layers.map(|layer| layer_memory(&job.program, &kernels, 2, layer).resident_bytes).sum();
        assert_eq!(resident_bytes, share, "what it holds is what was known before it was loaded");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_job_finds_its_component_loaded() {
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    let mut cluster = Cluster::start(vec![simulated()]).await;
    let first = cluster.run(&job, JOB).await.unwrap();
    cluster.release(0, JOB).await;
    let asked = cluster.coordinator.asked_weights;
    assert!(asked > 0);
    assert_eq!(cluster.run(&job, JobId(8)).await.unwrap(), first);
    assert_eq!(cluster.coordinator.asked_weights, asked);
}

#[tokio::test(start_paused = true)]
async fn two_jobs_at_a_time_do_not_touch_each_other() {
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(3, 1, 1));
    let mut cluster = Cluster::start(vec![simulated()]).await;
    for id in [JOB, JobId(8)] {
        assert!(job.assign(&mut cluster.coordinator, id, &cluster.names).await[0].is_ok());
    }
    for id in [JobId(8), JOB] {
        let predictions = job.denoise(&mut cluster.coordinator, id, &cluster.names).await.unwrap();
        assert_eq!(predictions, job.in_process());
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_component_ends_its_job_and_nothing_else() {
    let armed = Arc::new(AtomicBool::new(true));
    let trigger = Arc::clone(&armed);
    let layer_time = LayerTime::new(move |layer, _| {
        assert!(
            !(layer.name == "mid_block.resnets.0.conv1" && trigger.swap(false, Ordering::Relaxed)),
            "out of cheese"
        );
        Duration::from_millis(1)
    });
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(3, 1, 1));
    let mut cluster = Cluster::start(vec![WorkerConfig::simulated(layer_time)]).await;
    let (worker, failure) = cluster.run(&job, JOB).await.unwrap_err();
    assert_eq!(worker, cluster.names[0]);
    assert!(matches!(&failure, WorkerFailure::Panicked { message } if message.contains("out of cheese")), "{failure}");
    assert_eq!(cluster.run(&job, JobId(8)).await.unwrap(), job.in_process());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_fails_the_job_by_its_name() {
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    let mut cluster = Cluster::start(vec![simulated(), simulated()]).await;
    assert!(job.assign(&mut cluster.coordinator, JOB, &cluster.names).await.iter().all(Result::is_ok));
    cluster.hub.vanish(&cluster.names[1]);
    let (worker, failure) = cluster.coordinator.job_failure(JOB).await;
    assert_eq!(worker, cluster.names[0]);
    assert!(matches!(&failure, WorkerFailure::PeerFailed { peer, .. } if peer == "w1"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_is_named_in_the_answer() {
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    let mut cluster = Cluster::start(vec![simulated(), simulated()]).await;
    cluster.hub.vanish(&cluster.names[1]);
    let names = cluster.names.clone();
    let assignment = job.assignment(&mut cluster.coordinator, JOB, asyncdiff_plan::Rank(0), &names);
    let answer = cluster.coordinator.request(&names[0], WorkerRequest::Assign(Box::new(assignment))).await;
    assert!(matches!(&answer, Err(WorkerFailure::PeerFailed { peer, .. }) if peer == "w1"), "{answer:?}");
}
