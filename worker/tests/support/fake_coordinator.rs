//! The coordinator's side of a session, driven by a test: greets workers, serves parameters, asks and waits for answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{
    DType, Endpoint, FailedPeer, Hello, TensorHeader, TensorName, ToCoordinator, ToWorker, WorkerFailure, WorkerReply,
    WorkerRequest,
};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{AdmitEverything, Link, LinkSender, TensorFrame};
use asyncdiff_transport::network::{Network, SimulatedNetwork};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::weights::WeightStore;

/// No test waits longer for anything; simulated time where the clock is paused.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct FakeCoordinator {
    network: Arc<dyn Network>,
    pub(crate) workers: BTreeMap<PeerName, WorkerSession>,
    pub(crate) weights: WeightStore,
    /// Parameters that were asked for so far and that it sent.
    pub(crate) asked_weights: usize,
    /// Whom it sends others to for parameters.
    pub(crate) holder: Option<(String, Endpoint)>,
    /// Who did not send them.
    pub(crate) failed: Vec<FailedPeer>,
    /// What came and was not asked for yet, in order.
    events: VecDeque<(PeerName, Event)>,
    arrivals: mpsc::Receiver<(PeerName, Event)>,
    sender: mpsc::Sender<(PeerName, Event)>,
    readers: JoinSet<()>,
    next_request: u64,
}

pub(crate) struct WorkerSession {
    pub(crate) link: LinkSender,
    pub(crate) hello: Hello,
}

#[derive(Debug)]
pub(crate) enum Event {
    Closed,
    Control(ToCoordinator),
    Tensor(TensorFrame),
}

impl FakeCoordinator {
    pub(crate) fn new(hub: &SimulatedNetwork) -> Self {
        Self::on(hub.process(PeerName::Coordinator))
    }

    pub(crate) fn on(network: Arc<dyn Network>) -> Self {
        let (sender, arrivals) = mpsc::channel(4096);
        Self {
            network,
            workers: BTreeMap::new(),
            weights: WeightStore::default(),
            asked_weights: 0,
            holder: None,
            failed: Vec::new(),
            events: VecDeque::new(),
            arrivals,
            sender,
            readers: JoinSet::new(),
            next_request: 0,
        }
    }

    /// Accepts one worker without answering its `Hello`.
    pub(crate) async fn accept(&mut self) -> PeerName {
        let incoming = tokio::time::timeout(PATIENCE, self.network.accept()).await.unwrap().unwrap();
        let peer = incoming.peer().clone();
        let Link { sender: link, mut control, mut tensors } = incoming.accept(Arc::new(AdmitEverything));
        let (name, events) = (peer.clone(), self.sender.clone());
        let hello = match codec::decode(&control.control().await.unwrap()).unwrap() {
            ToCoordinator::Hello(hello) => hello,
            other => panic!("{other:?} instead of Hello"),
        };
        self.readers.spawn(async move {
            loop {
                let event = tokio::select! {
                    Some(frame) = control.control() => Event::Control(codec::decode(&frame).unwrap()),
                    Some(frame) = tensors.tensor() => Event::Tensor(frame),
                    else => Event::Closed,
                };
                let is_last = matches!(event, Event::Closed);
                if events.send((name.clone(), event)).await.is_err() || is_last {
                    return;
                }
            }
        });
        self.workers.insert(peer.clone(), WorkerSession { link, hello });
        peer
    }

    /// Accepts one worker and makes it a member.
    pub(crate) async fn welcome(&mut self) -> PeerName {
        let peer = self.accept().await;
        self.tell(&peer, &ToWorker::Welcome { heartbeat_interval: Duration::from_millis(250) }).await;
        peer
    }

    pub(crate) async fn tell(&self, worker: &PeerName, message: &ToWorker) {
        let frame = codec::encode(message).unwrap().into();
        self.workers[worker].link.send_control(frame).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, worker: &PeerName, body: WorkerRequest) -> u64 {
        self.next_request += 1;
        let request = self.next_request;
        self.tell(worker, &ToWorker::Request { request, body: Box::new(body) }).await;
        request
    }

    /// Asks and waits for the answer, serving parameters meanwhile.
    pub(crate) async fn request(
        &mut self,
        worker: &PeerName,
        body: WorkerRequest,
    ) -> Result<WorkerReply, WorkerFailure> {
        let request = self.ask(worker, body).await;
        self.answer(worker, request).await
    }

    pub(crate) async fn answer(&mut self, worker: &PeerName, wanted: u64) -> Result<WorkerReply, WorkerFailure> {
        self.wait_for(|from, event| match event {
            Event::Control(ToCoordinator::Reply { request, result }) if from == worker && *request == wanted => {
                Some(result.clone())
            }
            _ => None,
        })
        .await
    }

    /// Waits for a request's tensor.
    pub(crate) async fn reply_tensor(&mut self, worker: &PeerName, wanted: u64) -> TensorFrame {
        self.wait_for(|from, event| match event {
            Event::Tensor(frame) if from == worker => {
                let is_it = matches!(frame.header.name, TensorName::Reply { request, .. } if request == wanted);
                is_it.then(|| frame.clone())
            }
            _ => None,
        })
        .await
    }

    /// Waits until a worker says that a job failed.
    pub(crate) async fn job_failure(&mut self, wanted: JobId) -> (PeerName, WorkerFailure) {
        self.wait_for(|from, event| match event {
            Event::Control(ToCoordinator::JobFailed { job, failure, .. }) if *job == wanted => {
                Some((from.clone(), failure.clone()))
            }
            _ => None,
        })
        .await
    }

    /// The next event that `wanted` recognises; others are kept, heartbeats and requests for parameters are dealt with.
    pub(crate) async fn wait_for<T>(&mut self, mut wanted: impl FnMut(&PeerName, &Event) -> Option<T>) -> T {
        for index in 0..self.events.len() {
            let (from, event) = &self.events[index];
            if let Some(found) = wanted(from, event) {
                self.events.remove(index);
                return found;
            }
        }
        loop {
            let arrival = tokio::time::timeout(PATIENCE, self.arrivals.recv()).await;
            let (from, event) = arrival.expect("nothing that was waited for came in time").unwrap();
            if let Some(found) = wanted(&from, &event) {
                return found;
            }
            match event {
                Event::Control(ToCoordinator::Heartbeat { .. }) => {}
                Event::Control(ToCoordinator::WantWeights { ticket, digests, instead_of, .. }) => {
                    match self.holder.clone().filter(|_| instead_of.is_none()) {
                        Some((peer, endpoint)) => {
                            self.tell(&from, &ToWorker::AskPeer { ticket, peer, endpoint, digests }).await;
                        }
                        None => self.serve(&from, &digests).await,
                    }
                    self.failed.extend(instead_of);
                }
                other => self.events.push_back((from, other)),
            }
        }
    }

    async fn serve(&mut self, worker: &PeerName, digests: &[[u8; 32]]) {
        self.asked_weights += digests.len();
        for digest in digests {
            let stored = self.weights.get(digest);
            let header = TensorHeader {
                job: JobId(0),
                epoch: Epoch(0),
                name: TensorName::Weight(*digest),
                shape: stored.shape,
                dtype: stored.dtype,
                delta: None,
                part: None,
            };
            let frame = TensorFrame { header, payload: stored.bytes };
            self.workers[worker].link.send_tensor(frame).await.unwrap();
        }
    }

    /// Sends F32 values of a job.
    pub(crate) async fn send(&self, worker: &PeerName, job: JobId, name: TensorName, shape: &[u32], values: &[f32]) {
        let payload: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let header = TensorHeader {
            job,
            epoch: Epoch(1),
            name,
            shape: shape.to_vec(),
            dtype: DType::F32,
            delta: None,
            part: None,
        };
        self.workers[worker].link.send_tensor(TensorFrame { header, payload: payload.into() }).await.unwrap();
    }

    pub(crate) fn endpoint_of(&self, worker: &PeerName) -> Endpoint {
        self.workers[worker].hello.endpoint.clone()
    }
}

/// F32 values of a payload.
pub(crate) fn floats(payload: &[u8]) -> Vec<f32> {
    payload.as_chunks().0.iter().map(|&chunk| f32::from_le_bytes(chunk)).collect()
}
