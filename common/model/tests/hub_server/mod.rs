//! A server that speaks as much of the hub's protocol as its clients use: the list of files, and files by range.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The commit that the served repository is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

const REPOSITORY: &str = "somebody/demo-model";

/// How the server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It answers with what is no HTTP.
    Garbage,
    /// It serves.
    Normal,
    /// It accepts connections and says nothing.
    Silent,
    /// It serves those who send this token.
    Token(&'static str),
}

pub(crate) struct HubServer {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    root: PathBuf,
    behaviour: Behaviour,
    stopped: AtomicBool,
    requests: AtomicUsize,
    downloads: Mutex<Vec<String>>,
}

struct Request {
    path: String,
    range: Option<usize>,
    probe: bool,
    token: Option<String>,
}

impl HubServer {
    pub(crate) fn start(root: PathBuf, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root,
            behaviour,
            stopped: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            downloads: Mutex::new(Vec::new()),
        });
        let shared = state.clone();
        let thread = std::thread::spawn(move || {
            // Held open, so that a silent server's clients wait.
            let mut silent = Vec::new();
            for stream in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                match shared.behaviour {
                    Behaviour::Silent => silent.push(stream),
                    _ => shared.serve(stream),
                }
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The files whose content was sent, in order.
    pub(crate) fn downloads(&self) -> Vec<String> {
        self.state.downloads.lock().unwrap().clone()
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees that it is to stop.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl State {
    /// Answers one request and closes; a client that goes away in between is no failure of the test.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let Some(request) = read_request(&stream) else { return };
        self.requests.fetch_add(1, Ordering::SeqCst);
        let answer = match self.behaviour {
            Behaviour::Garbage => b"hello\r\n\r\n".to_vec(),
            Behaviour::Token(token) if request.token.as_deref() != Some(&format!("Bearer {token}")) => {
                response("401 Unauthorized", "", b"")
            }
            _ => self.answer(&request),
        };
        drop(stream.write_all(&answer));
    }

    fn answer(&self, request: &Request) -> Vec<u8> {
        if request.path == format!("/api/models/{REPOSITORY}/revision/main") {
            return response("200 OK", "Content-Type: application/json\r\n", self.listing().as_bytes());
        }
        let file = request.path.strip_prefix(&format!("/{REPOSITORY}/resolve/main/"));
        let Some((file, content)) = file.and_then(|file| Some((file, fs::read(self.root.join(file)).ok()?))) else {
            return response("404 Not Found", "", b"");
        };
        let start = request.range.unwrap_or(0);
        let end = if request.probe { 1 } else { content.len() };
        if !request.probe {
            self.downloads.lock().unwrap().push(file.to_owned());
        }
        let headers = format!(
            "ETag: \"{:x}-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {start}-{}/{}\r\n",
            content.len(),
            file.replace(['/', '.'], "-"),
            end - 1,
            content.len()
        );
        response("206 Partial Content", &headers, &content[start..end])
    }

    fn listing(&self) -> String {
        let mut files = Vec::new();
        list(&self.root, &self.root, &mut files);
        let siblings: Vec<_> = files.into_iter().map(|file| serde_json::json!({ "rfilename": file })).collect();
        serde_json::json!({ "siblings": siblings, "sha": COMMIT }).to_string()
    }
}

fn list(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, files);
        } else {
            files.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, probe: false, token: None };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(": ") else { return Some(request) };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.token = Some(value.to_owned()),
            "range" => {
                request.probe = value == "bytes=0-0";
                request.range = value.strip_prefix("bytes=")?.split('-').next()?.parse().ok();
            }
            _ => {}
        }
    }
    None
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}
