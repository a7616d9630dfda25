//! Parameters from other workers: those who have them send them, and whatever a peer does, a job has them in the end.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{
    DType, PeerFault, TensorHeader, TensorName, ToPeer, WantedWeight, WorkerReply, WorkerRequest,
};
use asyncdiff_model::checkpoint::StoredTensor;
use asyncdiff_plan::{CutShape, Epoch, JobId, Rank};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{AdmitEverything, Link, LinkSender, TensorFrame};
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use asyncdiff_worker::{CacheConfig, WorkerConfig};
use support::denoiser::{TinyJob, schedule};
use support::fake_coordinator::FakeCoordinator;
use support::{TestWorker, simulated};
use tokio::task::JoinHandle;

/// The tiny denoiser's parameters.
type Tensors = HashMap<[u8; 32], StoredTensor>;

fn cached(folder: &Path) -> WorkerConfig {
    WorkerConfig { cache: Some(CacheConfig { folder: folder.to_owned(), limit_bytes: 1 << 30 }), ..simulated() }
}

/// Assigns the whole tiny denoiser to a worker, which must manage. Returns how many of its parameters the coordinator sent.
async fn assign(coordinator: &mut FakeCoordinator, worker: &PeerName) -> usize {
    let before = coordinator.asked_weights;
    let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
    let assignment = job.assignment(coordinator, JobId(7), Rank(0), std::slice::from_ref(worker));
    let answer = coordinator.request(worker, WorkerRequest::Assign(Box::new(assignment))).await;
    assert!(matches!(answer, Ok(WorkerReply::Assigned { .. })), "{answer:?}");
    coordinator.asked_weights - before
}

fn weight(wanted: &WantedWeight, payload: bytes::Bytes) -> TensorFrame {
    let WantedWeight { digest, shape, dtype } = wanted.clone();
    let name = TensorName::Weight(digest);
    let header = TensorHeader { job: JobId(0), epoch: Epoch(0), name, shape, dtype, delta: None, part: None };
    TensorFrame { header, payload }
}

/// A worker that a coordinator sends to a peer, whose answers a test makes up.
struct Misled {
    coordinator: FakeCoordinator,
    worker: TestWorker,
    all: usize,
    peer: JoinHandle<()>,
}

impl Misled {
    /// `answer`: what the peer does with what it is asked for, having the link and all parameters.
    async fn start<A, F>(answer: A) -> Self
    where
        A: FnOnce(LinkSender, Vec<WantedWeight>, Tensors) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let hub = SimulatedNetwork::new();
        let mut coordinator = FakeCoordinator::new(&hub);
        let worker = TestWorker::start(&hub, "w0", simulated());
        let name = coordinator.welcome().await;
        let job = TinyJob::new(1, 1, CutShape::Contiguous, schedule(2, 1, 1));
        let listed = job.assignment(&mut coordinator, JobId(1), Rank(0), std::slice::from_ref(&name)).weights;
        let tensors: Tensors =
            listed.iter().map(|entry| (entry.digest, coordinator.weights.get(&entry.digest))).collect();
        let all = tensors.len();
        let process = hub.process(PeerName::worker("peer").unwrap());
        coordinator.holder = Some(("peer".to_owned(), process.endpoint()));
        let peer = tokio::spawn(async move {
            let Link { sender, mut control, tensors: _tensors } =
                process.accept().await.unwrap().accept(Arc::new(AdmitEverything));
            let asked = codec::decode(&control.control().await.unwrap()).unwrap();
            let ToPeer::WantWeights { wanted } = asked else { panic!("{asked:?}") };
            answer(sender, wanted, tensors).await;
        });
        Self { coordinator, worker, all, peer }
    }

    /// The assignment succeeds. Returns how many parameters the coordinator sent, of how many, and what it heard of the peer.
    async fn assign(mut self) -> (usize, usize, Vec<PeerFault>) {
        let sent = assign(&mut self.coordinator, &self.worker.name).await;
        self.peer.abort();
        let failed = &self.coordinator.failed;
        assert!(failed.iter().all(|failed| failed.name == "peer"), "{failed:?}");
        (sent, self.all, failed.iter().map(|failed| failed.fault).collect())
    }
}

#[tokio::test]
async fn a_second_worker_has_everything_of_the_first() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let _first = TestWorker::start(&hub, "w0", cached(folders[0].path()));
    let first = coordinator.welcome().await;
    assert!(assign(&mut coordinator, &first).await > 10);
    let _second = TestWorker::start(&hub, "w1", cached(folders[1].path()));
    let second = coordinator.welcome().await;
    coordinator.holder = Some(("w0".to_owned(), coordinator.endpoint_of(&first)));
    assert_eq!(assign(&mut coordinator, &second).await, 0);
    assert_eq!(coordinator.failed, []);
}

#[tokio::test]
async fn what_a_worker_lacks_comes_from_the_coordinator() {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let _first = TestWorker::start(&hub, "w0", simulated());
    let first = coordinator.welcome().await;
    let all = assign(&mut coordinator, &first).await;
    let _second = TestWorker::start(&hub, "w1", simulated());
    let second = coordinator.welcome().await;
    // It has loaded them, and keeps none as they are stored.
    coordinator.holder = Some(("w0".to_owned(), coordinator.endpoint_of(&first)));
    assert_eq!(assign(&mut coordinator, &second).await, all);
    assert!(coordinator.failed.iter().all(|failed| failed.fault == PeerFault::NotHeld));
}

#[tokio::test]
async fn a_peer_that_sends_other_bytes_costs_a_transfer() {
    let misled = Misled::start(async |sender, wanted, tensors| {
        for wanted in &wanted {
            let wrong: Vec<u8> = tensors[&wanted.digest].bytes.iter().map(|byte| byte ^ 1).collect();
            sender.send_tensor(weight(wanted, wrong.into())).await.unwrap();
        }
        sender.closed().await;
    });
    let (sent, all, faults) = misled.await.assign().await;
    assert_eq!(faults, [PeerFault::Failed]);
    // One that was on its way when the first lie was found may have been asked for twice.
    assert!(sent >= all, "{sent} of {all}");
}

#[tokio::test]
async fn a_peer_that_dies_in_the_middle_costs_what_it_had_not_sent() {
    let misled = Misled::start(async |sender, wanted, tensors| {
        for wanted in &wanted[..3] {
            sender.send_tensor(weight(wanted, tensors[&wanted.digest].bytes.clone())).await.unwrap();
        }
    });
    let (sent, all, faults) = misled.await.assign().await;
    assert_eq!((sent, faults), (all - 3, vec![PeerFault::Failed]));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_costs_seconds() {
    let misled = Misled::start(async |sender, _, _| {
        sender.closed().await;
    });
    let misled = misled.await;
    let begun = tokio::time::Instant::now();
    let (sent, all, faults) = misled.assign().await;
    assert_eq!((sent, faults), (all, vec![PeerFault::Failed]));
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_peer_that_is_not_there_costs_a_dial() {
    let mut misled = Misled::start(async |_, _, _| {}).await;
    misled.coordinator.holder = Some(("nobody".to_owned(), misled.worker_endpoint()));
    let (sent, all, faults) = {
        let sent = assign(&mut misled.coordinator, &misled.worker.name).await;
        let failed = &misled.coordinator.failed;
        (sent, misled.all, failed.iter().map(|failed| failed.fault).collect::<Vec<_>>())
    };
    assert_eq!((sent, faults), (all, vec![PeerFault::Failed]));
}

impl Misled {
    fn worker_endpoint(&self) -> asyncdiff_common::wire::Endpoint {
        self.coordinator.endpoint_of(&self.worker.name)
    }
}

/// A link of somebody else to a worker.
async fn stranger(hub: &SimulatedNetwork, worker: &PeerName) -> Link {
    let stranger = hub.process(PeerName::worker("stranger").unwrap());
    stranger.connect(worker, &stranger.endpoint(), Arc::new(AdmitEverything)).await.unwrap()
}

#[tokio::test]
async fn a_parameter_that_nobody_asked_for_is_refused() {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let worker = TestWorker::start(&hub, "w0", simulated());
    coordinator.welcome().await;
    let link = stranger(&hub, &worker.name).await;
    let unasked = WantedWeight { digest: [7; 32], shape: vec![4], dtype: DType::U8 };
    link.sender.send_tensor(weight(&unasked, vec![0; 4].into())).await.unwrap();
    let reason = link.sender.closed().await.to_string();
    assert!(reason.contains("no such tensor"), "{reason}");
}

#[tokio::test]
async fn who_asks_for_too_much_or_says_nonsense_loses_the_link() {
    let hub = SimulatedNetwork::new();
    let mut coordinator = FakeCoordinator::new(&hub);
    let worker = TestWorker::start(&hub, "w0", simulated());
    coordinator.welcome().await;
    let wanted = vec![WantedWeight { digest: [7; 32], shape: vec![4], dtype: DType::U8 }; 20_000];
    let nonsense = [
        (codec::encode(&ToPeer::WantWeights { wanted }).unwrap(), "more parameters than it may"),
        (codec::encode(&ToPeer::ProbeArrived { number: 1 }).unwrap(), "asked nobody"),
        (vec![99; 40], "malformed"),
    ];
    for (frame, part) in nonsense {
        let link = stranger(&hub, &worker.name).await;
        link.sender.send_control(frame.into()).await.unwrap();
        let reason = link.sender.closed().await.to_string();
        assert!(reason.contains(part), "{reason}");
    }
}
