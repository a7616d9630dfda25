//! Links of this crate, between two ends in one process.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, Instance, JobId, Lane, StepIndex, ValueId};
use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use super::{BenchCarrier, BenchError, IN_FLIGHT, Streamed, Subject};
use crate::identity::ClusterAuthority;
use crate::in_process::{self, End};
use crate::link::{AdmitEverything, ControlReceiver, Link, LinkError, LinkKind, LinkSender, TensorFrame};
use crate::quic::{ConnectError, QuicConfig, QuicNode, SharedMemory};
use crate::{PeerName, WorkerName};

/// How often a heartbeat is sent: often enough for a 99th percentile, seldom enough to be no load.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(2);

/// How long both ends may take to share memory.
const LANE_DEADLINE: Duration = Duration::from_secs(2);

/// What a lent slot is filled with.
const FILL: u8 = 7;

/// A link, with what must live as long.
pub(super) struct LinkSubject {
    runtime: Runtime,
    first: Link,
    second: Link,
    /// Whether the sender writes its tensors into lent memory.
    is_lent: bool,
    _nodes: Option<(QuicNode, QuicNode)>,
}

impl LinkSubject {
    pub(super) fn new(carrier: BenchCarrier) -> Result<Self, BenchError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared_memory = match carrier {
            BenchCarrier::SharedMemoryCopied | BenchCarrier::SharedMemoryLent => SharedMemory::Used,
            _ => SharedMemory::Unused,
        };
        let (first, second, nodes) = runtime.block_on(async {
            if carrier == BenchCarrier::InProcess {
                let end = |name: &str| End { name: peer(name), admission: Arc::new(AdmitEverything) };
                let (first, second) = in_process::pair(end("a"), end("b"));
                return Ok((first, second, None));
            }
            quic_pair(shared_memory).await.map(|(first, second, nodes)| (first, second, Some(nodes)))
        })?;
        let is_lent = carrier == BenchCarrier::SharedMemoryLent;
        Ok(Self { runtime, first, second, is_lent, _nodes: nodes })
    }
}

impl Subject for LinkSubject {
    fn stream(&mut self, bytes: usize, time: Duration) -> Result<Streamed, BenchError> {
        let payloads = Payloads::new(bytes, self.is_lent);
        let Self { runtime, first, second, .. } = self;
        runtime.block_on(stream(first, second, payloads, time))
    }

    fn one_by_one(&mut self, bytes: usize, time: Duration) -> Result<Vec<Duration>, BenchError> {
        let payloads = Payloads::new(bytes, self.is_lent);
        let Self { runtime, first, second, .. } = self;
        runtime.block_on(async {
            let (start, mut latencies) = (Instant::now(), Vec::new());
            while start.elapsed() < time {
                let begin = Instant::now();
                first.sender.send_tensor(payloads.frame(&first.sender)).await?;
                received(second.tensors.tensor().await, &first.sender)?;
                latencies.push(begin.elapsed());
            }
            Ok(latencies)
        })
    }
}

/// Where payloads come from.
#[derive(Clone)]
struct Payloads {
    header: TensorHeader,
    ready: Bytes,
    is_lent: bool,
}

impl Payloads {
    fn new(bytes: usize, is_lent: bool) -> Self {
        // Hidden states are what the receiver uses in place.
        let instance = Instance { value: ValueId(1), step: StepIndex(1), lane: Lane::Whole };
        let name = TensorName::HiddenState(instance);
        let header = TensorHeader {
            job: JobId(1),
            epoch: Epoch(1),
            name,
            shape: vec![1, bytes as u32],
            dtype: DType::U8,
            delta: None,
            part: None,
        };
        Self { header, ready: vec![FILL; bytes].into(), is_lent }
    }

    fn frame(&self, sender: &LinkSender) -> TensorFrame {
        let lent = self.is_lent.then(|| sender.lend(self.ready.len())).flatten();
        let payload = match lent {
            Some(mut loan) => {
                loan.fill(FILL);
                loan.into_bytes()
            }
            None => self.ready.clone(),
        };
        TensorFrame { header: self.header.clone(), payload }
    }
}

/// Tensors from the first end to the second, and heartbeats there and back, until the time is over and all have arrived.
async fn stream(
    first: &mut Link,
    second: &mut Link,
    payloads: Payloads,
    time: Duration,
) -> Result<Streamed, BenchError> {
    let (credits, over) = (Arc::new(Semaphore::new(IN_FLIGHT)), watch::Sender::new(false));
    let start = Instant::now();
    let sending = tokio::spawn(send(first.sender.clone(), payloads, Arc::clone(&credits), start + time));
    let echoing = echo(&mut second.control, second.sender.clone());
    let beating = beat(&mut first.control, first.sender.clone(), over.subscribe());
    let receiving = async {
        let mut sending = sending;
        let (mut tensors, mut sent) = (0, None);
        // A failed sender ends this too.
        while sent.is_none_or(|sent| tensors < sent) {
            tokio::select! {
                frame = second.tensors.tensor() => {
                    received(frame, &first.sender)?;
                    tensors += 1;
                    credits.add_permits(1);
                }
                result = &mut sending, if sent.is_none() => {
                    sent = Some(result.map_err(std::io::Error::other)??);
                }
            }
        }
        over.send_replace(true);
        Ok::<_, BenchError>((tensors, start.elapsed()))
    };
    let measuring = async { tokio::try_join!(receiving, beating) };
    tokio::select! {
        measured = measuring => {
            let ((tensors, elapsed), heartbeats) = measured?;
            Ok(Streamed { tensors, elapsed, heartbeats })
        }
        error = echoing => Err(error),
    }
}

/// Sends until the time is over. Returns how many it sent.
async fn send(
    sender: LinkSender,
    payloads: Payloads,
    credits: Arc<Semaphore>,
    until: Instant,
) -> Result<u64, BenchError> {
    let mut sent = 0;
    while Instant::now() < until {
        // The semaphore is never closed.
        if let Ok(credit) = credits.acquire().await {
            credit.forget();
        }
        sender.send_tensor(payloads.frame(&sender)).await?;
        sent += 1;
    }
    Ok(sent)
}

/// Sends control frames back, for ever; returns why it cannot.
async fn echo(control: &mut ControlReceiver, sender: LinkSender) -> BenchError {
    while let Some(frame) = control.control().await {
        if let Err(error) = sender.send_control(frame).await {
            return error.into();
        }
    }
    LinkError::Closed(sender.closed().await).into()
}

/// Sends control frames and waits for each to come back, until it is told that it is over.
async fn beat(
    control: &mut ControlReceiver,
    sender: LinkSender,
    mut over: watch::Receiver<bool>,
) -> Result<Vec<Duration>, BenchError> {
    let mut round_trips = Vec::new();
    while !*over.borrow_and_update() {
        let begin = Instant::now();
        sender.send_control(Bytes::from_static(&[0; 16])).await?;
        if control.control().await.is_none() {
            return Err(LinkError::Closed(sender.closed().await).into());
        }
        round_trips.push(begin.elapsed());
        // Over, or the next beat.
        let _ = tokio::time::timeout(HEARTBEAT_INTERVAL, over.changed()).await;
    }
    Ok(round_trips)
}

fn received(frame: Option<TensorFrame>, sender: &LinkSender) -> Result<(), BenchError> {
    match (frame, sender.close_reason()) {
        (Some(_), _) => Ok(()),
        (None, Some(reason)) => Err(LinkError::Closed(reason).into()),
        (None, None) => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
    }
}

async fn quic_pair(shared_memory: SharedMemory) -> Result<(Link, Link, (QuicNode, QuicNode)), BenchError> {
    let authority = ClusterAuthority::ephemeral()?;
    let node = async |name: &str| {
        let identity = authority.local_worker_identity(&WorkerName::nearest(name))?;
        let config = QuicConfig { shared_memory, ..QuicConfig::new(identity, IpAddr::V4(Ipv4Addr::LOCALHOST)) };
        Ok::<_, BenchError>(QuicNode::start(config).await?)
    };
    let (a, b) = (node("a").await?, node("b").await?);
    let (name, control, data) = (peer("b"), b.control_address(), b.data_address());
    let dialling = a.connect(&name, control, data, Arc::new(AdmitEverything));
    let accepting = async { b.accept().await.map(|incoming| incoming.accept(Arc::new(AdmitEverything))) };
    let (first, second) = tokio::join!(dialling, accepting);
    let (first, second) = (first?, second.ok_or(ConnectError::NodeStopped)?);
    if shared_memory == SharedMemory::Used {
        let both = async {
            while [&first, &second].iter().any(|link| link.sender.kind() != LinkKind::SharedMemory) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LANE_DEADLINE, both).await.map_err(|_| BenchError::NoSharedMemory)?;
    }
    Ok((first, second, (a, b)))
}

fn peer(name: &str) -> PeerName {
    PeerName::Worker(WorkerName::nearest(name))
}
