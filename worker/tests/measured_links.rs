//! What workers find out about the links between them, and which probes they take.

#![allow(clippy::unwrap_used)]

mod support;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{
    DType, LinkMeasurement, PROBE_LIMIT_BYTES, TensorHeader, TensorName, ToPeer, WorkerFailure, WorkerReply,
    WorkerRequest,
};
use asyncdiff_plan::{CutShape, Epoch, JobId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::faulty::Faults;
use asyncdiff_transport::link::{AdmitEverything, CloseReason, Link, LinkSender, Misbehaviour, Refusal, TensorFrame};
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use support::denoiser::{TinyJob, schedule};
use support::fake_coordinator::FakeCoordinator;
use support::{TestWorker, simulated};

const SEED: u64 = 5;

struct Pair {
    hub: SimulatedNetwork,
    coordinator: FakeCoordinator,
    names: Vec<PeerName>,
    workers: Vec<TestWorker>,
}

impl Pair {
    /// Two workers; `faults` of the way from the first to the second.
    async fn start(faults: Option<Faults>) -> Self {
        let hub = SimulatedNetwork::with_faults(SEED);
        let mut coordinator = FakeCoordinator::new(&hub);
        let (mut names, mut workers) = (Vec::new(), Vec::new());
        for name in ["w0", "w1"] {
            workers.push(TestWorker::start(&hub, name, simulated()));
            names.push(coordinator.welcome().await);
        }
        if let Some(faults) = faults {
            hub.set_faults(&names[0], &names[1], &faults);
        }
        Self { hub, coordinator, names, workers }
    }

    fn request(&self, peer: &str) -> WorkerRequest {
        WorkerRequest::MeasureLink { peer: peer.to_owned(), endpoint: self.coordinator.endpoint_of(&self.names[1]) }
    }

    async fn measure(&mut self, peer: &str) -> Result<LinkMeasurement, WorkerFailure> {
        let (from, body) = (self.names[0].clone(), self.request(peer));
        match self.coordinator.request(&from, body).await? {
            WorkerReply::LinkMeasured(measured) => Ok(measured),
            other => panic!("{other:?}"),
        }
    }

    /// A link of another worker to the first one.
    async fn stranger(&self) -> Link {
        let stranger = self.hub.process(PeerName::worker("stranger").unwrap());
        stranger.connect(&self.workers[0].name, &stranger.endpoint(), Arc::new(AdmitEverything)).await.unwrap()
    }
}

fn probe(number: u64, bytes: u32) -> TensorFrame {
    let name = TensorName::Probe(number);
    let header = TensorHeader {
        job: JobId(0),
        epoch: Epoch(0),
        name,
        shape: vec![bytes],
        dtype: DType::U8,
        delta: None,
        part: None,
    };
    TensorFrame { header, payload: vec![0; bytes as usize].into() }
}

async fn refusal(link: &LinkSender, frame: TensorFrame) -> Refusal {
    link.send_tensor(frame).await.unwrap();
    match link.closed().await {
        CloseReason::AccusedByPeer(Misbehaviour::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_is_found_to_be_as_slow_as_it_is() {
    for (bytes_per_second, delay) in [(20_000, 50), (10_000_000, 3), (1_000_000_000, 0)] {
        let rate = NonZeroU64::new(bytes_per_second);
        let faults = Faults { bytes_per_second: rate, delay: Duration::from_millis(delay), ..Faults::default() };
        let found = Pair::start(Some(faults)).await.measure("w1").await.unwrap();
        let (rate, latency) = (bytes_per_second as f64, delay as f64 / 2000.0);
        assert!((found.bytes_per_second / rate - 1.0).abs() < 0.05, "{found:?} at {rate}");
        // A tiny probe's bytes take some time too, and the simulation's clock has milliseconds.
        assert!((found.latency_seconds - latency).abs() < 0.002 + 64.0 / rate, "{found:?} at {delay} ms");
        assert_eq!(found.busy_seconds_per_byte, 0.0, "simulated workers share a process");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_without_faults_has_finite_figures_however_often_it_is_measured() {
    let mut pair = Pair::start(None).await;
    for _ in 0..3 {
        let found = pair.measure("w1").await.unwrap();
        assert!(found.bytes_per_second > 1e9 && found.bytes_per_second.is_finite(), "{found:?}");
        assert!(found.latency_seconds < 0.01, "{found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_be_reached_is_named() {
    let mut pair = Pair::start(None).await;
    let failure = pair.measure("nobody").await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::PeerFailed { peer, .. } if peer == "nobody"), "{failure:?}");
    let failure = pair.measure("No Name").await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::BadAssignment { .. }), "{failure:?}");
    assert!(pair.measure("w1").await.is_ok(), "others are measured all the same");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_swallows_everything_is_given_up_and_can_be_measured_later() {
    let mut pair = Pair::start(Some(Faults { cut: true, ..Faults::default() })).await;
    let failure = pair.measure("w1").await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::PeerFailed { peer, .. } if peer == "w1"), "{failure:?}");
    let (from, to) = (pair.names[0].clone(), pair.names[1].clone());
    pair.hub.set_faults(&from, &to, &Faults { delay: Duration::from_secs(60), ..Faults::default() });
    let failure = pair.measure("w1").await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::TimedOut { what, .. } if what.contains("w1")), "{failure:?}");
    pair.hub.set_faults(&from, &to, &Faults::default());
    assert!(pair.measure("w1").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_link_is_measured_while_a_job_runs_and_the_job_does_not_notice() {
    let mut pair = Pair::start(None).await;
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(5, 1, 1));
    let names = pair.names.clone();
    assert!(job.assign(&mut pair.coordinator, JobId(7), &names).await.iter().all(Result::is_ok));
    let body = pair.request("w1");
    let request = pair.coordinator.ask(&names[0], body).await;
    let predictions = job.denoise(&mut pair.coordinator, JobId(7), &names).await.unwrap();
    assert_eq!(predictions, job.in_process());
    let answer = pair.coordinator.answer(&names[0], request).await.unwrap();
    assert!(matches!(answer, WorkerReply::LinkMeasured(_)), "{answer:?}");
    match pair.coordinator.request(&names[0], WorkerRequest::ReleaseJob { job: JobId(7) }).await.unwrap() {
        WorkerReply::Released { report } => {
            let sent = report.hidden_state_bytes_sent;
            assert!(
                (1..u64::from(PROBE_LIMIT_BYTES)).contains(&sent),
                "{sent} bytes: a probe is among the hidden states"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_of_a_worker_is_answered_and_a_larger_one_refused() {
    let pair = Pair::start(None).await;
    let mut link = pair.stranger().await;
    link.sender.send_tensor(probe(41, PROBE_LIMIT_BYTES)).await.unwrap();
    let answer: ToPeer = codec::decode(&link.control.control().await.unwrap()).unwrap();
    assert_eq!(answer, ToPeer::ProbeArrived { number: 41 });
    let (found_bytes, limit_bytes) = (u64::from(PROBE_LIMIT_BYTES) + 1, u64::from(PROBE_LIMIT_BYTES));
    let too_large = refusal(&link.sender, probe(42, PROBE_LIMIT_BYTES + 1)).await;
    assert_eq!(too_large, Refusal::TooLarge { found_bytes, limit_bytes });
}

#[tokio::test(start_paused = true)]
async fn probes_of_another_type_or_from_the_coordinator_are_refused() {
    let pair = Pair::start(None).await;
    let mut floats = probe(1, 64);
    (floats.header.shape, floats.header.dtype) = (vec![16], DType::F32);
    let wrong_type = refusal(&pair.stranger().await.sender, floats).await;
    assert_eq!(wrong_type, Refusal::WrongDType { expected: DType::U8, found: DType::F32 });
    let link = pair.coordinator.workers[&pair.names[0]].link.clone();
    assert_eq!(refusal(&link, probe(1, 64)).await, Refusal::Unexpected);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nonsense_loses_the_link_and_is_named() {
    let mut pair = Pair::start(None).await;
    let liar = pair.hub.process(PeerName::worker("liar").unwrap());
    let body = pair.request("liar");
    let from = pair.names[0].clone();
    let request = pair.coordinator.ask(&from, body).await;
    let link = liar.accept().await.unwrap().accept(Arc::new(AdmitEverything));
    link.sender.send_control(vec![250; 40].into()).await.unwrap();
    let reason = link.sender.closed().await;
    assert!(matches!(reason, CloseReason::AccusedByPeer(Misbehaviour::Malformed { .. })), "{reason:?}");
    let failure = pair.coordinator.answer(&from, request).await.unwrap_err();
    assert!(matches!(&failure, WorkerFailure::PeerFailed { peer, .. } if peer == "liar"), "{failure:?}");
}
