//! Starts the binary in a folder and with a state of its own, and reads what it says.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything here may take: the slowest machine with everything else running.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where commands put temporary files; they leave none.
const TEMPORARY: &str = ".tmp";

/// An empty folder that commands run in.
pub(crate) struct Place {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    /// Held open: local workers live as long as it.
    _stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(TEMPORARY)).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Copies a folder with what is in it.
    pub(crate) fn copy_folder(&self, from: &Path, name: &str) {
        std::fs::create_dir(self.path(name)).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let inner = format!("{name}/{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                self.copy_folder(&entry.path(), &inner);
            } else {
                std::fs::copy(entry.path(), self.path(&inner)).unwrap();
            }
        }
    }

    /// Names of the files that are here and in the folder for temporary ones.
    pub(crate) fn files(&self) -> Vec<String> {
        let list = |folder: &Path| std::fs::read_dir(folder).unwrap();
        let entries = list(self.folder.path()).chain(list(&self.path(TEMPORARY)));
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != TEMPORARY).collect()
    }

    /// A command as the last argument of another one, which says where it runs.
    fn command_after(&self, wrapper: &[&str], arguments: &[&str]) -> Command {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_coordinator")], arguments].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path());
        for variable in ["ASYNCDIFF_CONNECT", "ASYNCDIFF_JOIN_LINE", "ASYNCDIFF_LOG", "ASYNCDIFF_MODEL", "HF_HOME"] {
            command.env_remove(variable);
        }
        command
            .env("ASYNCDIFF_STATE_DIR", self.path(".state"))
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.path(TEMPORARY));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.run_after(&[], arguments)
    }

    /// The same, as the last argument of another command.
    pub(crate) fn run_after(&self, wrapper: &[&str], arguments: &[&str]) -> Ended {
        let output = self.command_after(wrapper, arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts a command; its lines, of stdout and stderr, are read while it runs.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        self.start_after(&[], arguments)
    }

    /// The same, as the last argument of another command, which becomes it: a signal goes to what was started.
    pub(crate) fn start_after(&self, wrapper: &[&str], arguments: &[&str]) -> Running {
        let mut child = self.command_after(wrapper, arguments).stdin(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        read_lines(child.stdout.take().unwrap(), sender.clone());
        read_lines(child.stderr.take().unwrap(), sender);
        Running { _stdin: child.stdin.take(), child, lines }
    }
}

impl Ended {
    /// Checks the exit code and that stderr has every part.
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is missing: {self:?}");
        }
        assert!(!self.stderr.contains("panicked"), "{self:?}");
    }

    /// What a successful command printed, as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        self.expect(0, &[]);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Running {
    /// Waits for a line that has the part.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        self.wait_for_all(part).pop().unwrap()
    }

    /// Waits for a line that has the part, and gives it after all that was said before.
    pub(crate) fn wait_for_all(&self, part: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            let found = line.contains(part);
            seen.push(line);
            if found {
                return seen;
            }
        }
        panic!("{part:?} was not said: {seen:#?}");
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// Waits for the end and gives the exit code.
    pub(crate) fn end(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The lines end with the process (and its children), so this waits without polling a clock.
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap().code(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it did not end"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Of a test that failed; one that has ended already refuses.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The axes of a PNG file, from its header.
pub(crate) fn png_size(path: &Path) -> (u32, u32) {
    let content = std::fs::read(path).unwrap();
    assert_eq!(&content[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

fn read_lines(from: impl Read + Send + 'static, sender: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Whoever listened may have heard enough.
            let _ = sender.send(line);
        }
    });
}
