//! Throughput and latency of tensors on links, by size: within a process and over QUIC on loopback.
//!
//! `cargo bench -p asyncdiff-transport --bench links`

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_common::wire::{DType, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId, StepIndex};
use asyncdiff_transport::identity::ClusterAuthority;
use asyncdiff_transport::in_process::{self, End};
use asyncdiff_transport::link::{AdmitEverything, Link, TensorFrame};
use asyncdiff_transport::quic::{QuicConfig, QuicNode};
use asyncdiff_transport::{PeerName, WorkerName};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;

/// A small hidden state, a hidden state at batch 1, and one of SD 2.1's at batch 2.
const SIZES: [(&str, usize); 3] = [("64 KiB", 64 << 10), ("1 MiB", 1 << 20), ("5 MiB", 5 << 20)];

/// Tensors in flight while throughput is measured.
const IN_FLIGHT: usize = 4;

fn links(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime starts");
    let (first, second) = runtime.block_on(async {
        let end = |name| End { name: PeerName::Worker(worker(name)), admission: Arc::new(AdmitEverything) };
        in_process::pair(end("a"), end("b"))
    });
    measure(criterion, &runtime, "in-process", (first, second));
    let (first, second, _nodes) = runtime.block_on(quic_pair());
    measure(criterion, &runtime, "quic", (first, second));
}

fn measure(criterion: &mut Criterion, runtime: &Runtime, kind: &str, (first, mut second): (Link, Link)) {
    let mut group = criterion.benchmark_group(kind);
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for (label, bytes) in SIZES {
        let frame = tensor(bytes);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("throughput", label), |bencher| {
            bencher.iter_custom(|count| runtime.block_on(stream(&first, &mut second, &frame, count)));
        });
        group.bench_function(BenchmarkId::new("latency", label), |bencher| {
            bencher.iter_custom(|count| runtime.block_on(one_by_one(&first, &mut second, &frame, count)));
        });
    }
    group.finish();
}

/// The time that `count` tensors take with some of them always in flight.
async fn stream(first: &Link, second: &mut Link, frame: &TensorFrame, count: u64) -> Duration {
    let start = Instant::now();
    let mut sent = 0;
    for received in 0..count {
        while sent < count && sent < received + IN_FLIGHT as u64 {
            first.sender.send_tensor(frame.clone()).await.expect("the link is open");
            sent += 1;
        }
        second.tensors.tensor().await.expect("the link is open");
    }
    start.elapsed()
}

/// The time that `count` tensors take one after the other.
async fn one_by_one(first: &Link, second: &mut Link, frame: &TensorFrame, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        first.sender.send_tensor(frame.clone()).await.expect("the link is open");
        second.tensors.tensor().await.expect("the link is open");
    }
    start.elapsed()
}

async fn quic_pair() -> (Link, Link, (QuicNode, QuicNode)) {
    let authority = ClusterAuthority::ephemeral().expect("an authority is made");
    let node = async |name| {
        let identity = authority.local_worker_identity(&worker(name)).expect("a certificate is signed");
        QuicNode::start(QuicConfig::new(identity, IpAddr::V4(Ipv4Addr::LOCALHOST))).await.expect("loopback is free")
    };
    let (a, b) = (node("a").await, node("b").await);
    let (name, control, data) = (PeerName::Worker(worker("b")), b.control_address(), b.data_address());
    let dialling = a.connect(&name, control, data, Arc::new(AdmitEverything));
    let accepting = async { b.accept().await.expect("a dials").accept(Arc::new(AdmitEverything)) };
    let (first, second) = tokio::join!(dialling, accepting);
    (first.expect("b accepts"), second, (a, b))
}

fn worker(name: &str) -> WorkerName {
    WorkerName::new(name).expect("it is a label")
}

fn tensor(bytes: usize) -> TensorFrame {
    let header = TensorHeader {
        job: JobId(1),
        epoch: Epoch(1),
        name: TensorName::Latents(StepIndex(0)),
        shape: vec![1, bytes as u32],
        dtype: DType::U8,
    };
    TensorFrame { header, payload: vec![7; bytes].into() }
}

criterion_group!(benches, links);
criterion_main!(benches);
