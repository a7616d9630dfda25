//! The thread that writes: changes in the order in which they are handed over, as many as wait in one commit.
//!
//! A commit syncs the disk, which takes milliseconds: no actor does that in a handler. How many changes can wait is bounded
//! by who hands them over: a submission waits for its own, a running job has one progress on its way at most, and jobs are
//! as many as the queue takes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use asyncdiff_plan::JobId;
use tokio::sync::oneshot;

use super::{Change, JobFiles, JobStore, JobStoreError};

/// Changes of one commit at most: each may carry a picture, and all of them are in memory until it is done.
const BATCH: usize = 64;

type Kept = Result<(), Arc<JobStoreError>>;
/// What a job left, or why it cannot be read.
pub(crate) type FoundFiles = Result<Option<JobFiles>, Arc<JobStoreError>>;

/// Hands changes to the thread. When the last clone is dropped the thread writes what it has and closes the database.
#[derive(Clone)]
pub(crate) struct JobWriter(mpsc::Sender<Request>);

enum Request {
    Change(Box<Change>, Box<dyn FnOnce(Kept) + Send>),
    Files(JobId, Box<dyn FnOnce(FoundFiles) + Send>),
}

impl JobWriter {
    /// Starts the thread. The receiver ends when the database is closed.
    pub(crate) fn start(store: JobStore) -> Result<(Self, oneshot::Receiver<()>), JobStoreError> {
        let (sender, requests) = mpsc::channel();
        let (closing, closed) = oneshot::channel();
        let path = store.path().to_owned();
        let writing = Writing { path: path.clone(), store: Some(store), requests, waiting: VecDeque::new() };
        let thread = std::thread::Builder::new().name("job-store".to_owned()).spawn(move || {
            writing.run();
            drop(closing);
        });
        match thread {
            Ok(_) => Ok((Self(sender), closed)),
            Err(error) => Err(JobStoreError::Io { path, reason: error.to_string() }),
        }
    }

    /// Keeps a change, and then says so or why not, on the thread that writes.
    pub(crate) fn keep(&self, change: Change, then: impl FnOnce(Kept) + Send + 'static) {
        let request = Request::Change(Box::new(change), Box::new(then));
        if let Err(mpsc::SendError(Request::Change(_, then))) = self.0.send(request) {
            then(Err(Arc::new(JobStoreError::Stopped)));
        }
    }

    /// Reads what a job left, after all changes that were handed over before.
    pub(crate) fn files(&self, job: JobId, then: impl FnOnce(FoundFiles) + Send + 'static) {
        let request = Request::Files(job, Box::new(then));
        if let Err(mpsc::SendError(Request::Files(_, then))) = self.0.send(request) {
            then(Err(Arc::new(JobStoreError::Stopped)));
        }
    }
}

struct Writing {
    path: PathBuf,
    /// None after an error: redb then refuses everything, and the file is opened anew for the next change.
    store: Option<JobStore>,
    requests: mpsc::Receiver<Request>,
    waiting: VecDeque<Request>,
}

impl Writing {
    fn run(mut self) {
        while let Ok(request) = self.requests.recv() {
            self.waiting.push_back(request);
            self.waiting.extend(self.requests.try_iter().take(BATCH - 1));
            self.work();
        }
    }

    fn work(&mut self) {
        let (mut changes, mut thens) = (Vec::new(), Vec::new());
        while let Some(request) = self.waiting.pop_front() {
            match request {
                Request::Change(change, then) => {
                    changes.push(*change);
                    thens.push(then);
                }
                Request::Files(job, then) => {
                    self.commit(&mut changes, &mut thens);
                    then(self.attempt(|store| store.files(job)));
                }
            }
        }
        self.commit(&mut changes, &mut thens);
    }

    fn commit(&mut self, changes: &mut Vec<Change>, thens: &mut Vec<Box<dyn FnOnce(Kept) + Send>>) {
        if changes.is_empty() {
            return;
        }
        let kept = self.attempt(|store| store.apply(changes));
        if let Err(error) = &kept {
            tracing::error!(%error, changes = changes.len(), "changes of jobs are not kept");
        }
        changes.clear();
        for then in thens.drain(..) {
            then(kept.clone());
        }
    }

    fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut JobStore) -> Result<T, JobStoreError>,
    ) -> Result<T, Arc<JobStoreError>> {
        let mut store = match self.store.take() {
            Some(store) => store,
            None => JobStore::open_file(self.path.clone())?,
        };
        let result = work(&mut store)?;
        self.store = Some(store);
        Ok(result)
    }
}
