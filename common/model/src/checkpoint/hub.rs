//! Checkpoints on the Hugging Face hub, through its own client and in its standard cache.
//!
//! A file is downloaded when it is first asked for, and never if the cache has it. Nothing else of a repository is touched.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::files::CheckpointFiles;
use super::hub_settings::{HubId, HubSettings};
use super::mapped::map_file;
use super::{CheckpointError, files};

/// How often a download that breaks off is resumed before it is given up.
const RETRIES: usize = 3;

/// A repository of the hub.
pub(super) struct HubFiles {
    id: HubId,
    api: Api,
    cache: Cache,
    stall_limit: Duration,
    /// What the repository holds; `None` where only the cache is used.
    listed: Option<HashSet<String>>,
}

impl HubFiles {
    /// Asks the hub for the list of files; if that is forbidden or fails, what the cache has is used, if it has anything.
    pub(super) fn open(id: HubId, settings: HubSettings) -> Result<Self, CheckpointError> {
        let cache = Cache::new(settings.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(settings.endpoint)
            .with_token(settings.token)
            .with_progress(false)
            .with_retries(RETRIES);
        let failed = |error: &ApiError| hub_error(&id, "the list of files", error);
        let api = builder.build().map_err(|error| failed(&error))?;
        let mut files = Self { api, cache, stall_limit: settings.stall_limit, listed: None, id };
        if settings.offline {
            return Ok(files);
        }
        match files.list() {
            Ok(listed) => files.listed = Some(listed),
            Err(error) if files.cached("model_index.json").is_some() => {
                tracing::warn!(repository = %files.id, %error, "the hub does not answer; using what the cache has");
            }
            Err(error) => return Err(error),
        }
        Ok(files)
    }

    fn repository(&self) -> Repo {
        Repo::with_revision(self.id.name.clone(), RepoType::Model, self.id.revision.clone())
    }

    fn cached(&self, file: &str) -> Option<PathBuf> {
        self.cache.repo(self.repository()).get(file)
    }

    fn list(&self) -> Result<HashSet<String>, CheckpointError> {
        let repository = self.api.repo(self.repository());
        let info = self.watched("the list of files", move |_progress| repository.info())?;
        Ok(info.siblings.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    fn download(&self, file: &str) -> Result<PathBuf, CheckpointError> {
        let repository = self.api.repo(self.repository());
        let name = file.to_owned();
        tracing::info!(repository = %self.id, file, "downloading");
        self.watched(file, move |progress| repository.download_with_progress(&name, progress))
    }

    /// Runs a request on a thread of its own and gives up when nothing has arrived for the stall limit.
    ///
    /// The client has no timeouts, and it asserts what a server may break; so it must neither block nor unwind the caller.
    /// A thread that was given up ends with its connection or the process: it holds nothing but a file in the cache.
    fn watched<T: Send + 'static>(
        &self,
        file: &str,
        request: impl FnOnce(Heartbeat<T>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, CheckpointError> {
        let (sender, receiver) = mpsc::channel();
        let heartbeat = Heartbeat { sender: sender.clone() };
        let work = move || {
            let result = request(heartbeat);
            // The receiver is gone only when the request was given up, and then nobody wants the result.
            drop(sender.send(Signal::Done(result)));
        };
        let failed = |reason: String, hint| CheckpointError::Hub {
            repository: self.id.to_string(),
            file: file.to_owned(),
            reason,
            hint,
        };
        std::thread::Builder::new()
            .name("hub".to_owned())
            .spawn(work)
            .map_err(|error| failed(error.to_string(), "free some memory and try again"))?;
        loop {
            match receiver.recv_timeout(self.stall_limit) {
                Ok(Signal::Alive) => {}
                Ok(Signal::Done(result)) => return result.map_err(|error| hub_error(&self.id, file, &error)),
                Err(RecvTimeoutError::Timeout) => {
                    let reason = format!("nothing arrived for {:?}", self.stall_limit);
                    return Err(failed(reason, "try again: a partial download is resumed"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(failed("the answer breaks the hub's protocol".to_owned(), "check HF_ENDPOINT"));
                }
            }
        }
    }
}

impl CheckpointFiles for HubFiles {
    fn name(&self) -> String {
        self.id.to_string()
    }

    fn exists(&self, file: &str) -> bool {
        self.listed.as_ref().is_some_and(|listed| listed.contains(file)) || self.cached(file).is_some()
    }

    fn content(&self, file: &str) -> Result<Bytes, CheckpointError> {
        if !files::stays_inside(file) {
            return Err(CheckpointError::OutsidePath { checkpoint: self.name(), file: file.to_owned() });
        }
        let path = match (self.cached(file), &self.listed) {
            (Some(path), _) => path,
            (None, Some(listed)) if listed.contains(file) => self.download(file)?,
            (None, Some(_)) => {
                return Err(CheckpointError::MissingFile { checkpoint: self.name(), file: file.to_owned() });
            }
            (None, None) => {
                return Err(CheckpointError::Hub {
                    repository: self.id.to_string(),
                    file: file.to_owned(),
                    reason: "it is not in the cache, and the hub is not asked".to_owned(),
                    hint: "unset HF_HUB_OFFLINE, or download the checkpoint where there is a network",
                });
            }
        };
        Ok(map_file(&path)?)
    }
}

/// What the thread of a request reports.
enum Signal<T> {
    /// Bytes arrived.
    Alive,
    /// The request is finished.
    Done(Result<T, ApiError>),
}

/// Tells the waiting side that a download moves.
struct Heartbeat<T> {
    sender: mpsc::Sender<Signal<T>>,
}

impl<T> Progress for Heartbeat<T> {
    fn init(&mut self, _size: usize, _filename: &str) {
        self.beat();
    }

    fn update(&mut self, _size: usize) {
        self.beat();
    }

    fn finish(&mut self) {
        self.beat();
    }
}

impl<T> Heartbeat<T> {
    fn beat(&self) {
        // The receiver is gone only when the download was given up; it then ends by itself.
        drop(self.sender.send(Signal::Alive));
    }
}

fn hub_error(id: &HubId, file: &str, error: &ApiError) -> CheckpointError {
    let reason = error.to_string();
    let hint = if reason.contains("401") || reason.contains("403") {
        "accept the model's licence on its page and set HF_TOKEN"
    } else if reason.contains("404") {
        "check the id and the revision; a private repository needs HF_TOKEN"
    } else {
        "check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use only what is in the cache"
    };
    CheckpointError::Hub { repository: id.to_string(), file: file.to_owned(), reason, hint }
}
