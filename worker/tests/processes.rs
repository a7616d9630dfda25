//! The program itself: joins over QUIC on loopback, computes, leaves on a signal; and what it says when it cannot join.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{ToCoordinator, ToWorker, WorkerReply};
use asyncdiff_plan::{CutShape, JobId};
use asyncdiff_transport::PeerName;
use asyncdiff_transport::identity::{ClusterAuthority, CoordinatorAddress, JoinToken};
use asyncdiff_transport::quic::{QuicConfig, QuicNode};
use support::denoiser::{TinyJob, schedule};
use support::fake_coordinator::{Event, FakeCoordinator};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(30);

struct Cluster {
    authority: Arc<ClusterAuthority>,
    node: Arc<QuicNode>,
    state: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let authority = Arc::new(ClusterAuthority::ephemeral().unwrap());
        let identity = authority.coordinator_identity().unwrap();
        let enrolment = Some(Arc::clone(&authority) as Arc<_>);
        let config = QuicConfig { enrolment, ..QuicConfig::new(identity, IpAddr::V4(Ipv4Addr::LOCALHOST)) };
        let node = Arc::new(QuicNode::start(config).await.unwrap());
        Self { authority, node, state: tempfile::tempdir().unwrap() }
    }

    fn token(&self, valid_for: Duration) -> JoinToken {
        let (control, data) = (self.node.control_address(), self.node.data_address());
        let host = control.ip().to_string();
        let address = CoordinatorAddress { host, control_port: control.port(), data_port: data.port() };
        self.authority.invite(vec![address], valid_for).unwrap()
    }

    fn line(&self) -> String {
        self.token(PATIENCE).to_string()
    }

    fn worker(&self, name: &str, line: Option<&str>) -> Child {
        let mut command = worker(&self.state.path().join(name));
        // Also where there are GPUs, whose bits are their own.
        command.args(["--name", name, "--device", "cpu"]);
        if let Some(line) = line {
            command.env("ASYNCDIFF_JOIN_LINE", line);
        }
        command.spawn().unwrap()
    }

    /// One process with so many devices that compute nothing.
    fn paced(&self, name: &str, devices: u32) -> Child {
        let mut command = worker(&self.state.path().join(name));
        command.args(["--name", name, "--paced", "1e9", "--paced-devices", &devices.to_string()]);
        command.env("ASYNCDIFF_JOIN_LINE", self.line()).spawn().unwrap()
    }
}

fn worker(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_worker"));
    command.arg("join").arg("--state-dir").arg(state).args(["--threads", "1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove("ASYNCDIFF_JOIN_LINE");
    command
}

/// The exit code and what was written to stderr.
async fn end_of(worker: Child) -> (i32, String) {
    let output = tokio::time::timeout(PATIENCE, worker.wait_with_output()).await.unwrap().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

async fn terminate(worker: &Child) {
    let process = worker.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &process]).status().await.unwrap().success());
}

/// Waits until a worker says that it is to leave.
async fn wants_to_leave(coordinator: &mut FakeCoordinator) -> PeerName {
    let leaving = |from: &PeerName, event: &Event| match event {
        Event::Control(ToCoordinator::WantsToLeave { .. }) => Some(from.clone()),
        _ => None,
    };
    coordinator.wait_for(leaving).await
}

#[tokio::test]
async fn two_processes_compute_the_bits_of_one_thread_and_leave_on_a_signal() {
    let cluster = Cluster::start().await;
    let mut coordinator = FakeCoordinator::on(Arc::clone(&cluster.node) as Arc<_>);
    let line = cluster.line();
    let mut workers = Vec::new();
    for name in ["a", "b"] {
        workers.push(cluster.worker(name, Some(&line)));
        assert_eq!(coordinator.welcome().await, PeerName::worker(name).unwrap());
    }
    let names: Vec<PeerName> = coordinator.workers.keys().cloned().collect();
    let job = TinyJob::new(2, 2, CutShape::Contiguous, schedule(4, 1, 1));
    for answer in job.assign(&mut coordinator, JobId(1), &names).await {
        assert!(matches!(answer, Ok(WorkerReply::Assigned { .. })), "{answer:?}");
    }
    let predictions = job.denoise(&mut coordinator, JobId(1), &names).await.unwrap();
    assert_eq!(predictions, job.in_process());
    for worker in workers {
        terminate(&worker).await;
        let name = wants_to_leave(&mut coordinator).await;
        coordinator.tell(&name, &ToWorker::MayLeave { reason: "nobody needs it".to_owned() }).await;
        let (code, log) = end_of(worker).await;
        assert_eq!(code, 0, "{log}");
    }
}

#[tokio::test]
async fn a_worker_that_has_joined_needs_no_line_and_says_in_one_that_it_is_a_member() {
    let cluster = Cluster::start().await;
    let mut coordinator = FakeCoordinator::on(Arc::clone(&cluster.node) as Arc<_>);
    let line = cluster.line();
    for line in [Some(line.as_str()), None] {
        let mut worker = cluster.worker("a", line);
        coordinator.welcome().await;
        let mut output = BufReader::new(worker.stdout.take().unwrap()).lines();
        let said = tokio::time::timeout(PATIENCE, output.next_line()).await.unwrap().unwrap().unwrap();
        assert!(said.contains("worker a is a member of the cluster"), "{said}");
        terminate(&worker).await;
        wants_to_leave(&mut coordinator).await;
        // Nothing is answered: the second signal ends it.
        terminate(&worker).await;
        assert_eq!(end_of(worker).await.0, 0);
    }
}

#[tokio::test]
async fn lines_that_cannot_be_used_end_with_what_to_do() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    let expired = cluster.token(Duration::ZERO).to_string();
    let impostor = JoinToken { authority: other.authority.fingerprint(), ..cluster.token(PATIENCE) }.to_string();
    let unknown = JoinToken { addresses: cluster.token(PATIENCE).addresses, ..other.token(PATIENCE) };
    let unknown = JoinToken { authority: cluster.authority.fingerprint(), ..unknown }.to_string();
    let garbled = cluster.line().replace('A', "B");
    let cases = [
        (Some(expired), "expired"),
        (Some(impostor), "another cluster"),
        (Some(unknown), "does not know this join token"),
        (Some(garbled), "garbled"),
        (None, "no join line was given"),
    ];
    for (line, expected) in cases {
        let (code, log) = end_of(cluster.worker("a", line.as_deref())).await;
        assert!(code == 2 && log.contains(expected) && log.contains("hint: "), "{expected}: {code} {log}");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_the_networks_fault() {
    let cluster = Cluster::start().await;
    let line = cluster.line();
    cluster.node.stop().await;
    let (code, log) = end_of(cluster.worker("a", Some(&line))).await;
    assert!(code == 3 && log.contains("cannot reach the coordinator") && log.contains("hint: "), "{code} {log}");
}

#[tokio::test]
async fn a_name_that_is_taken_and_a_directory_in_use_are_said() {
    let cluster = Cluster::start().await;
    let mut coordinator = FakeCoordinator::on(Arc::clone(&cluster.node) as Arc<_>);
    let line = cluster.line();
    let _first = cluster.worker("a", Some(&line));
    coordinator.welcome().await;
    let (code, log) = end_of(cluster.worker("a", Some(&line))).await;
    assert!(code == 2 && log.contains("in use by another process"), "{code} {log}");
    let mut second = worker(&cluster.state.path().join("elsewhere"));
    second.args(["--name", "a"]).env("ASYNCDIFF_JOIN_LINE", &line);
    let (code, log) = end_of(second.spawn().unwrap()).await;
    assert!(code == 2 && log.contains("another worker is enrolled as a"), "{code} {log}");
}

#[tokio::test]
async fn wrong_arguments_are_the_operators_fault_and_help_lists_the_exit_codes() {
    let state = tempfile::tempdir().unwrap();
    for arguments in
        [["--memory", "8"], ["--name", "no name"], ["--listen", "here"], ["--log-format", "xml"], ["--device", "gpu"]]
    {
        let (code, log) = end_of(worker(state.path()).args(arguments).spawn().unwrap()).await;
        assert!(code == 2 && log.contains(arguments[0]), "{code} {log}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_worker")).args(["join", "--help"]).output().await.unwrap();
    assert!(help.status.success() && String::from_utf8(help.stdout).unwrap().contains("Exit codes:"));
}

#[tokio::test]
async fn devices_are_listed_and_what_keeps_gpus_from_being_used_is_said() {
    let output = Command::new(env!("CARGO_BIN_EXE_worker")).arg("devices").output().await.unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && listed.starts_with("cpu") && listed.contains("\ncuda"), "{listed}");
    // Where a GPU can be used, the worker would begin to work.
    if !listed.contains("not usable") && !listed.contains("no GPU") {
        eprintln!("skipped: this machine has a GPU:\n{listed}");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (code, log) = end_of(worker(state.path()).args(["--device", "cuda"]).spawn().unwrap()).await;
    let expected = if cfg!(feature = "cuda") { "no GPU 0|.so cannot be opened" } else { "built without GPUs" };
    let is_said = expected.split('|').any(|text| log.contains(text));
    assert!(code == 2 && is_said && log.contains("cannot compute on a GPU") && log.contains("hint: "), "{code} {log}");
    assert!(std::fs::read_dir(state.path()).unwrap().next().is_none(), "it has begun to join");
}

/// Two devices in one process are two workers, with a state directory, a name and a place in the cluster each.
#[tokio::test]
async fn a_process_is_a_worker_for_each_of_its_devices() {
    let cluster = Cluster::start().await;
    let mut coordinator = FakeCoordinator::on(Arc::clone(&cluster.node) as Arc<_>);
    let mut process = cluster.paced("box", 2);
    let mut names = [coordinator.welcome().await, coordinator.welcome().await];
    names.sort_unstable();
    assert_eq!(names, ["box", "box-2"].map(|name| PeerName::worker(name).unwrap()));
    let endpoint = |name: &PeerName| coordinator.workers[name].hello.endpoint.clone();
    assert_ne!(endpoint(&names[0]), endpoint(&names[1]));
    let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
    for _worker in &names {
        let said = tokio::time::timeout(PATIENCE, output.next_line()).await.unwrap().unwrap().unwrap();
        assert!(said.starts_with("worker box") && said.contains("is a member of the cluster"), "{said}");
    }
    // One is let go by the coordinator; the other one works until the process is asked to end.
    coordinator.tell(&names[0], &ToWorker::MayLeave { reason: "drained".to_owned() }).await;
    coordinator.wait_for(|from, event| (*from == names[0] && matches!(event, Event::Closed)).then_some(())).await;
    terminate(&process).await;
    assert_eq!(wants_to_leave(&mut coordinator).await, names[1]);
    coordinator.tell(&names[1], &ToWorker::MayLeave { reason: "nobody needs it".to_owned() }).await;
    let (code, log) = end_of(process).await;
    assert!(code == 0 && log.contains("worker=box-2"), "{log}");
}

#[tokio::test]
async fn a_worker_that_fails_leaves_the_others_of_its_process_working() {
    let cluster = Cluster::start().await;
    let mut coordinator = FakeCoordinator::on(Arc::clone(&cluster.node) as Arc<_>);
    let process = cluster.paced("box", 2);
    let mut names = [coordinator.welcome().await, coordinator.welcome().await];
    names.sort_unstable();
    coordinator.tell(&names[1], &ToWorker::Refused { reason: "it was removed".to_owned() }).await;
    coordinator.wait_for(|from, event| (*from == names[1] && matches!(event, Event::Closed)).then_some(())).await;
    // The other one is there and leaves in peace; what the process ends with is the failure.
    terminate(&process).await;
    assert_eq!(wants_to_leave(&mut coordinator).await, names[0]);
    coordinator.tell(&names[0], &ToWorker::MayLeave { reason: "nobody needs it".to_owned() }).await;
    let (code, log) = end_of(process).await;
    assert!(code == 3 && log.contains("error: worker box-2: it was removed"), "{code} {log}");
    assert!(log.contains("the others go on"), "{log}");
}
