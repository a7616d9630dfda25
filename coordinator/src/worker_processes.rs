//! Worker processes of this machine: this program started again, once for each worker.
//!
//! ```text
//!   this process ── stdin (held open) ──► worker: ends when it is closed, so none outlives this process
//!                ◄── stderr ──────────── worker: its last lines are in the message if it ends by itself
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use asyncdiff_transport::quic::LinkLimit;
use tempfile::TempDir;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::local_devices::LocalDevice;
use crate::local_workers::JOIN_LINE_VARIABLE;
use asyncdiff_common::owned_task::OwnedTask;

/// The hidden subcommand of `coordinator` that is a worker.
pub const LOCAL_WORKER: &str = "local-worker";

/// Lines of a worker's log that are kept for the message about its end.
const LAST_LINES: usize = 10;

/// The most bytes of a kept line.
const LINE_BYTES: usize = 300;

/// How to start workers.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    /// The program, if it is not this one, and the arguments that make it a worker.
    pub program: Option<(PathBuf, Vec<OsString>)>,
    /// How many.
    pub workers: usize,
    /// The first one's number: they are called `local-1` and so on, and no two of a cluster may have one name.
    pub first: usize,
    /// What each computes on; without an entry on the CPU.
    pub devices: Vec<LocalDevice>,
    /// Threads of each.
    pub threads: u32,
    /// The CPUs that each one's threads are kept on, as `worker join --cpus` takes them; without an entry wherever the operating system likes.
    pub cpus: Vec<String>,
    /// A folder for each one's cache of parameters; without an entry it has none.
    pub caches: Vec<PathBuf>,
    /// What lets them in.
    pub join_line: String,
    /// A checkpoint that they read themselves.
    pub model: Option<String>,
    /// What they are instead of this machine's devices and links.
    pub simulation: Option<Simulation>,
}

impl ProcessSettings {
    /// This program's workers, from the first one on, of one thread each, wherever the operating system likes.
    #[must_use]
    pub fn new(join_line: String, workers: usize) -> Self {
        Self {
            program: None,
            workers,
            first: 1,
            devices: Vec::new(),
            threads: 1,
            cpus: Vec::new(),
            caches: Vec::new(),
            join_line,
            model: None,
            simulation: None,
        }
    }
}

/// Devices and links that are not there, for benchmarks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simulation {
    /// Floating point operations per second of each worker's device, which computes nothing and takes its time.
    pub flops_per_second: f64,
    /// What each link carries, also those with the coordinator; without it as much as it can.
    pub link_limit: Option<LinkLimit>,
}

/// What a simulated device may hold: it holds no weights.
const SIMULATED_MEMORY: &str = "1TiB";

/// Why workers could not be started.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// A directory for their state could not be made.
    #[error("cannot make a directory for the workers' state: {0}\nhint: check TMPDIR and the free space there")]
    Directory(io::Error),
    /// The program could not be started.
    #[error(
        "cannot start {program}: {source}\nhint: check that the program may be executed and this user's process limit"
    )]
    Spawn {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// A worker that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitedWorker {
    /// Its name.
    pub name: String,
    /// How it ended, with the last lines of its log.
    pub reason: String,
}

/// Running worker processes. Dropping this kills them.
#[must_use]
pub struct WorkerProcesses {
    names: Vec<String>,
    /// As the operating system numbers them, by name.
    ids: BTreeMap<String, u32>,
    stdins: Vec<ChildStdin>,
    exits: mpsc::Receiver<ExitedWorker>,
    _watching: Vec<OwnedTask>,
    _state: TempDir,
}

impl WorkerProcesses {
    /// Starts the workers; they join on their own time.
    pub fn start(settings: &ProcessSettings) -> Result<Self, ProcessError> {
        let state = tempfile::Builder::new().prefix("asyncdiff-").tempdir().map_err(ProcessError::Directory)?;
        let (exited, exits) = mpsc::channel(settings.workers.max(1));
        let mut processes = Self {
            names: Vec::new(),
            ids: BTreeMap::new(),
            stdins: Vec::new(),
            exits,
            _watching: Vec::new(),
            _state: state,
        };
        for index in 0..settings.workers {
            let name = format!("local-{}", settings.first + index);
            let mut child = processes.spawn(settings, index, &name)?;
            processes.stdins.extend(child.stdin.take());
            processes.ids.extend(child.id().map(|id| (name.clone(), id)));
            processes._watching.push(OwnedTask::spawn(watch(name.clone(), child, exited.clone())));
            processes.names.push(name);
        }
        Ok(processes)
    }

    /// The workers' names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The process that each worker was started as, by its name.
    #[must_use]
    pub fn ids(&self) -> &BTreeMap<String, u32> {
        &self.ids
    }

    /// The next worker that ends by itself; none when all have.
    pub async fn exited(&mut self) -> Option<ExitedWorker> {
        self.exits.recv().await
    }

    /// Ends the workers: at once if they can, by force after `within`.
    pub async fn stop(mut self, within: Duration) {
        self.stdins.clear();
        let deadline = Instant::now() + within;
        for _worker in 0..self.names.len() {
            match tokio::time::timeout_at(deadline, self.exits.recv()).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!("a local worker did not end in time and is killed");
                    return;
                }
            }
        }
    }

    fn spawn(&self, settings: &ProcessSettings, index: usize, name: &str) -> Result<Child, ProcessError> {
        let this = || std::env::current_exe().map(|path| (path, vec![OsString::from(LOCAL_WORKER)]));
        let program = settings.program.clone().map_or_else(this, Ok);
        let unknown = |source| ProcessError::Spawn { program: PathBuf::from("this program"), source };
        let (program, arguments) = program.map_err(unknown)?;
        let LocalDevice { device, memory_bytes } = settings.devices.get(index).copied().unwrap_or_default();
        let mut command = Command::new(&program);
        command
            .args(arguments)
            .arg("join")
            .args(["--name", name, "--threads", &settings.threads.to_string()])
            .args(["--device", &device.to_string()])
            .arg("--state-dir")
            .arg(self._state.path().join(name))
            // A command line is visible to other users of a machine.
            .env(JOIN_LINE_VARIABLE, &settings.join_line)
            // Its log goes into messages, not to a terminal.
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C at a terminal goes to all of its processes; workers end when their job has been cancelled, and not
            // before.
            .process_group(0)
            .kill_on_drop(true);
        match settings.caches.get(index) {
            Some(folder) => command.arg("--cache").arg(folder),
            // What is in this coordinator's files need not be in others of this machine too.
            None => command.args(["--cache-limit", "0"]),
        };
        if let Some(bytes) = memory_bytes {
            // In a unit that is as fine as anybody needs it.
            command.args(["--memory", &format!("{}KiB", bytes >> 10)]);
        }
        if let Some(cpus) = settings.cpus.get(index) {
            command.args(["--cpus", cpus]);
        }
        if let Some(model) = &settings.model {
            command.args(["--model", model]);
        }
        if let Some(Simulation { flops_per_second, link_limit }) = &settings.simulation {
            command.args(["--paced", &flops_per_second.to_string(), "--memory", SIMULATED_MEMORY]);
            command.args(link_limit.iter().flat_map(|limit| ["--link-limit".to_owned(), limit.to_string()]));
        }
        command.spawn().map_err(|source| ProcessError::Spawn { program, source })
    }
}

/// Follows a process to its end.
async fn watch(name: String, mut child: Child, exited: mpsc::Sender<ExitedWorker>) {
    let mut lines = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        collect_lines(&name, stderr, &mut lines).await;
    }
    let end = match child.wait().await {
        Ok(status) => describe(status),
        Err(error) => format!("its end could not be observed: {error}"),
    };
    let log: Vec<String> = lines.into();
    let reason = if log.is_empty() { end } else { format!("{end}; its last words: {}", log.join(" | ")) };
    // Whoever started it may be gone.
    let _ = exited.send(ExitedWorker { name, reason }).await;
}

async fn collect_lines(name: &str, stderr: impl AsyncRead + Unpin, lines: &mut VecDeque<String>) {
    let mut reader = BufReader::new(stderr).lines();
    while let Ok(Some(mut line)) = reader.next_line().await {
        tracing::debug!(target: "asyncdiff::local_worker", worker = name, "{line}");
        let end = (0..=LINE_BYTES.min(line.len())).rev().find(|&end| line.is_char_boundary(end)).unwrap_or(0);
        line.truncate(end);
        // What went well explains no end.
        if line.split_whitespace().nth(1).is_some_and(|level| matches!(level, "INFO" | "DEBUG" | "TRACE")) {
            continue;
        }
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

fn describe(status: ExitStatus) -> String {
    // The text names the exit code or the signal.
    format!("its process ended with {status}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, workers: usize) -> WorkerProcesses {
        let arguments = ["-c", script].map(OsString::from).to_vec();
        let program = Some((PathBuf::from("/bin/sh"), arguments));
        let settings = ProcessSettings {
            program,
            simulation: Some(Simulation { flops_per_second: 2.5e9, link_limit: None }),
            ..ProcessSettings::new("adj1.secret".to_owned(), workers)
        };
        WorkerProcesses::start(&settings).unwrap()
    }

    #[tokio::test]
    async fn a_worker_that_ends_is_reported_with_its_last_words() {
        let script = "echo 2026-01-01T00:00:00Z INFO assigned >&2; echo out of cheese >&2; exit 3";
        let mut processes = shell(script, 1);
        let exited = processes.exited().await.unwrap();
        assert_eq!(exited.name, "local-1");
        assert!(exited.reason.contains("exit status: 3") && exited.reason.contains("out of cheese"), "{exited:?}");
        assert!(!exited.reason.contains("assigned"), "{exited:?}");
    }

    #[tokio::test]
    async fn the_join_line_is_in_the_environment_and_not_on_the_command_line() {
        let mut processes = shell("echo \"$ASYNCDIFF_JOIN_LINE\" \"$0\" \"$@\" >&2", 1);
        let reason = processes.exited().await.unwrap().reason;
        assert_eq!(reason.matches("adj1.secret").count(), 1, "{reason}");
        assert!(reason.contains("join --name local-1 --threads 1"), "{reason}");
    }

    #[tokio::test]
    async fn a_paced_worker_is_told_its_rate() {
        let mut processes = shell("echo \"$@\" >&2", 1);
        let reason = processes.exited().await.unwrap().reason;
        assert!(reason.contains("--paced 2500000000"), "{reason}");
    }

    #[tokio::test]
    async fn workers_end_when_their_input_is_closed() {
        let processes = shell("exec cat", 2);
        let stopping = processes.stop(Duration::from_secs(60));
        tokio::time::timeout(Duration::from_secs(30), stopping).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let settings = ProcessSettings {
            program: Some((PathBuf::from("/nonexistent/worker"), Vec::new())),
            ..ProcessSettings::new(String::new(), 1)
        };
        let error = WorkerProcesses::start(&settings).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/worker"), "{error}");
    }
}
