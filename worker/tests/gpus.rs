//! A process that is a worker for each of two GPUs, real or emulated ones. Where there are none, these tests say so and pass.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{DeviceInfo, WorkerReply, WorkerRequest};
use asyncdiff_model::kernels::{DeviceSet, Gpus};
use asyncdiff_plan::{CutShape, JobId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::identity::{ClusterAuthority, CoordinatorAddress};
use asyncdiff_transport::quic::{QuicConfig, QuicNode};
use support::denoiser::{Predictions, TinyJob, schedule};
use support::fake_coordinator::FakeCoordinator;
use tokio::process::{Child, Command};

/// How long the join line serves: NVRTC takes some seconds, emulated ones more.
const VALID: Duration = Duration::from_secs(600);

/// f32 on a GPU against f32 on a CPU, over a few steps: sums are in another order.
const TOLERANCE: f32 = 1e-4;

fn has_two_gpus() -> bool {
    let found = Gpus::find().and_then(|gpus| gpus.of(DeviceSet::AllGpus));
    let has = found.as_ref().is_ok_and(|gpus| gpus.len() >= 2);
    if !has {
        eprintln!("skipped: two GPUs are needed, and there are: {found:?}");
    }
    has
}

/// A worker for each of the first two GPUs.
fn join(state: &std::path::Path, line: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg("join").args(["--name", "box", "--device", "cuda", "--cache-limit", "0", "--state-dir"]).arg(state);
    command.env("CUDA_VISIBLE_DEVICES", "0,1").env("ASYNCDIFF_JOIN_LINE", line);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test]
async fn a_process_computes_on_each_of_its_gpus_and_says_what_it_takes() {
    if !has_two_gpus() {
        return;
    }
    let authority = Arc::new(ClusterAuthority::ephemeral().unwrap());
    let enrolment = Some(Arc::clone(&authority) as Arc<_>);
    let identity = authority.coordinator_identity().unwrap();
    let quic = QuicConfig { enrolment, ..QuicConfig::new(identity, IpAddr::V4(Ipv4Addr::LOCALHOST)) };
    let node = Arc::new(QuicNode::start(quic).await.unwrap());
    let (control, data) = (node.control_address(), node.data_address());
    let host = control.ip().to_string();
    let address = CoordinatorAddress { host, control_port: control.port(), data_port: data.port() };
    let line = authority.invite(vec![address], VALID).unwrap().to_string();
    let state = tempfile::tempdir().unwrap();
    let mut coordinator = FakeCoordinator::on(node);
    let _process = join(state.path(), &line);
    for _worker in 0..2 {
        coordinator.welcome().await;
    }
    let names: Vec<PeerName> = coordinator.workers.keys().cloned().collect();
    assert_eq!(names, ["box", "box-2"].map(|name| PeerName::worker(name).unwrap()));
    let kinds = coordinator.workers.values().map(|session| session.hello.devices[0].kind.clone());
    assert_eq!(kinds.collect::<Vec<_>>(), [DeviceInfo::GPU; 2]);

    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    let mut resident = Vec::new();
    for answer in job.assign(&mut coordinator, JobId(1), &names).await {
        let Ok(WorkerReply::Assigned { resident_bytes }) = answer else { panic!("{answer:?}") };
        resident.push(resident_bytes);
    }
    let found = job.denoise(&mut coordinator, JobId(1), &names).await.unwrap();
    assert!(difference(&job.in_process(), &found) <= TOLERANCE);
    for (name, resident_bytes) in names.iter().zip(resident) {
        let released = coordinator.request(name, WorkerRequest::ReleaseJob { job: JobId(1) }).await;
        let Ok(WorkerReply::Released { report }) = released else { panic!("{released:?}") };
        eprintln!("{name} took {} bytes of its GPU, {resident_bytes} of them for parameters", report.gpu_bytes);
        // Parameters, and something that was computed in.
        assert!(report.gpu_bytes > resident_bytes && report.gpu_bytes < 1 << 30, "{report:?}");
    }
}

/// Of the largest element.
fn difference(expected: &Predictions, found: &Predictions) -> f32 {
    assert!(expected.keys().eq(found.keys()));
    let elements = || expected.values().flatten().zip(found.values().flatten());
    let largest = elements().map(|(one, _)| one.abs()).fold(0.0, f32::max);
    elements().map(|(one, other)| (one - other).abs()).fold(0.0, f32::max) / largest
}
