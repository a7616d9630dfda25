//! The task that writes: changes in the order in which they are handed over, as many as wait in one commit.
//!
//! A commit syncs the disk, which takes milliseconds: no actor does that in a handler, and the task hands each to a thread that
//! may block. (It is no thread of its own, so that a simulation's clock stands still while it writes.) How many changes can
//! wait is bounded by who hands them over: a submission waits for its own, a running job has one progress on its way at most,
//! and jobs are as many as the queue takes.

use std::sync::Arc;

use asyncdiff_plan::JobId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::disk::Place;
use super::{Change, JobFiles, JobStore, JobStoreError};

/// Changes of one commit at most: each may carry a picture, and all of them are in memory until it is done.
const BATCH: usize = 64;

type Kept = Result<(), Arc<JobStoreError>>;
/// What a job left, or why it cannot be read.
pub(crate) type FoundFiles = Result<Option<JobFiles>, Arc<JobStoreError>>;

/// Hands changes to the task. When the last clone is dropped the task writes what it has and closes the database.
#[derive(Clone)]
pub(crate) struct JobWriter(mpsc::UnboundedSender<Request>);

enum Request {
    Change(Box<Change>, Box<dyn FnOnce(Kept) + Send>),
    Files(JobId, Box<dyn FnOnce(FoundFiles) + Send>),
}

impl JobWriter {
    /// Starts the task, which needs a runtime. The receiver ends when the database is closed.
    pub(crate) fn start(store: JobStore) -> (Self, oneshot::Receiver<()>) {
        let (sender, requests) = mpsc::unbounded_channel();
        let (closing, closed) = oneshot::channel();
        let writing = Writing { place: store.place().clone(), store: Some(store) };
        tokio::spawn(async move {
            writing.run(requests).await;
            drop(closing);
        });
        (Self(sender), closed)
    }

    /// Keeps a change, and then says so or why not, where it is written.
    pub(crate) fn keep(&self, change: Change, then: impl FnOnce(Kept) + Send + 'static) {
        let request = Request::Change(Box::new(change), Box::new(then));
        if let Err(mpsc::error::SendError(Request::Change(_, then))) = self.0.send(request) {
            then(Err(Arc::new(JobStoreError::Stopped)));
        }
    }

    /// Reads what a job left, after all changes that were handed over before.
    pub(crate) fn files(&self, job: JobId, then: impl FnOnce(FoundFiles) + Send + 'static) {
        let request = Request::Files(job, Box::new(then));
        if let Err(mpsc::error::SendError(Request::Files(_, then))) = self.0.send(request) {
            then(Err(Arc::new(JobStoreError::Stopped)));
        }
    }
}

struct Writing {
    place: Place,
    /// None after an error: redb then refuses everything, and the file is opened anew for the next change.
    store: Option<JobStore>,
}

impl Writing {
    async fn run(self, mut requests: mpsc::UnboundedReceiver<Request>) {
        let (mut idle, mut waiting) = (self, Vec::with_capacity(BATCH));
        while requests.recv_many(&mut waiting, BATCH).await > 0 {
            let (mut writing, batch) = (idle, std::mem::take(&mut waiting));
            let worked = spawn_blocking(move || {
                writing.work(batch);
                writing
            });
            idle = match worked.await {
                Ok(writing) => writing,
                // Whoever waits for this batch hears nothing, and whoever comes later that the task has ended.
                Err(error) => return tracing::error!(%error, "keeping jobs failed"),
            };
        }
        // Closing syncs the disk too.
        drop(spawn_blocking(move || drop(idle)).await);
    }

    fn work(&mut self, batch: Vec<Request>) {
        let (mut changes, mut thens) = (Vec::new(), Vec::new());
        for request in batch {
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
            None => JobStore::open_at(self.place.clone())?,
        };
        let result = work(&mut store)?;
        self.store = Some(store);
        Ok(result)
    }
}
