//! A running coordinator as its users see it: commands, the API, verification and benchmarks use this and no actor.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{ComputeType, DeviceInfo, LayerCost};
use asyncdiff_plan::{Choice, JobId, Links, Program, StepIndex};
use asyncdiff_transport::network::Network;
use ractor::{Actor, ActorRef, Message, RpcReplyPort};
use thiserror::Error;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use crate::actors::{
    Coordinator, CoordinatorArguments, CoordinatorMessage, JobView, Keeping, Limits, MembershipMessage, Parts, Planned,
    QueueMessage, RestoredJob, Submission, SubmitRefused, WorkerHandle, WorkerRecord, make_plan, measure_all,
};
use crate::failure::{JobFailed, split_hint};
use crate::job::{Fault, JobError, JobEvent, JobRecord, JobSettings};
use crate::job_spec::{JobOutcome, JobSpec};
use crate::job_store::{JobFiles, JobStore, JobStoreError, JobWriter};
use crate::model_store::{CheckedJob, ModelStore};

/// How long an actor may take to answer what it knows: it answers in microseconds, unless the machine stands still.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a cluster is started with.
pub struct ClusterConfig {
    /// How workers reach this process.
    pub network: Arc<dyn Network>,
    /// What pictures are made with.
    pub store: Arc<ModelStore>,
    /// Where jobs are kept, so that they survive this process; absent: in memory.
    pub jobs: Option<JobStore>,
    /// Deadlines and bounds.
    pub limits: Limits,
}

/// A running coordinator. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in order.
pub struct Cluster {
    root: ActorRef<CoordinatorMessage>,
    parts: Parts,
    store: Arc<ModelStore>,
    limits: Limits,
    workers: watch::Receiver<usize>,
    /// Of one that keeps its jobs on disk: ends when they are.
    kept: Option<oneshot::Receiver<()>>,
}

/// A submitted job, followed from its beginning.
#[must_use]
pub struct JobHandle {
    /// Its id.
    pub id: JobId,
    /// The record when it was submitted.
    pub record: JobRecord,
    /// What happens from then on; a listener that falls behind misses intermediate events and not the last one.
    pub events: broadcast::Receiver<JobEvent>,
}

/// A dry run: what would be done for settings now.
#[derive(Clone, Debug)]
pub struct PlannedJob {
    /// The plan with its prediction.
    pub choice: Choice,
    /// What it is a plan for.
    pub program: Arc<Program>,
    /// The workers, by rank.
    pub workers: Vec<String>,
    /// What each layer costs at each worker.
    pub costs: Vec<Arc<[LayerCost]>>,
    /// What the links between the workers cost, by rank.
    pub links: Links,
    /// Rows of the batch.
    pub rows: u32,
    /// What the denoiser is computed in.
    pub compute: ComputeType,
}

/// Why the cluster did not do what it was asked.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// The queue does not take the job.
    #[error(transparent)]
    Refused(#[from] SubmitRefused),
    /// Jobs cannot be kept on disk or read from there.
    #[error(transparent)]
    Keeping(#[from] Arc<JobStoreError>),
    /// What was asked for cannot be made.
    #[error(transparent)]
    Job(#[from] JobFailed),
    /// Nobody is there to measure.
    #[error("no worker has joined\nhint: start one with the line that `coordinator serve` printed")]
    NoWorkers,
    /// The coordinator has ended, or a part of it failed.
    #[error("the coordinator has stopped\nhint: see its log; if it was not stopped on purpose, this is a bug")]
    Stopped,
    /// Fewer workers than wanted came in time.
    #[error(
        "{found} of {wanted} workers joined within {within:?}\nhint: see the workers' logs for why the others did not"
    )]
    TooFewWorkers {
        /// How many were there at the end.
        found: usize,
        /// How many were wanted.
        wanted: usize,
        /// The limit.
        within: Duration,
    },
    /// No such job, or not any more.
    #[error("there is no {job}\nhint: `coordinator jobs` lists those that are known")]
    UnknownJob {
        /// Which one.
        job: JobId,
    },
}

impl Cluster {
    /// Starts the coordinator's actors. Workers can join from then on.
    pub async fn start(config: ClusterConfig) -> Result<Self, ClusterError> {
        let ClusterConfig { network, store, jobs, limits } = config;
        let (count, workers) = watch::channel(0);
        let (keeping, kept) = match jobs {
            Some(jobs) => restore(jobs, Arc::clone(&store)).await?,
            None => (Keeping::in_memory(), None),
        };
        let arguments =
            CoordinatorArguments { network, store: Arc::clone(&store), limits: limits.clone(), keeping, count };
        let spawned = Coordinator::spawn(None, Coordinator, arguments).await;
        let (root, _task) = spawned.map_err(|error| {
            tracing::error!(%error, "the coordinator's actors did not start");
            ClusterError::Stopped
        })?;
        let parts = ask(&root, CoordinatorMessage::Parts).await?;
        Ok(Self { root, parts, store, limits, workers, kept })
    }

    /// What pictures are made with.
    #[must_use]
    pub fn store(&self) -> &Arc<ModelStore> {
        &self.store
    }

    /// Checks a job and queues it.
    pub async fn submit(&self, spec: JobSpec) -> Result<JobHandle, ClusterError> {
        self.submit_once(spec, None).await
    }

    /// The same; a job of that key that is known is not submitted again, and is the answer.
    pub async fn submit_once(&self, spec: JobSpec, key: Option<String>) -> Result<JobHandle, ClusterError> {
        let store = Arc::clone(&self.store);
        // Building a program takes milliseconds.
        let checking = tokio::task::spawn_blocking(move || CheckedJob::new(&store, spec));
        let checked = checking.await.map_err(|error| JobFailed::Bug { what: error.to_string() })?;
        let submission = Box::new(Submission { checked: checked.map_err(JobFailed::Store)?, key });
        let (record, events) = ask(&self.parts.queue, |reply| QueueMessage::Submit(submission, reply)).await??;
        Ok(JobHandle { id: record.id, record, events })
    }

    /// The jobs that are known, the oldest first.
    pub async fn jobs(&self) -> Result<Vec<JobRecord>, ClusterError> {
        ask(&self.parts.queue, QueueMessage::Jobs).await
    }

    /// A job's record.
    pub async fn job(&self, job: JobId) -> Result<JobRecord, ClusterError> {
        Ok(self.view(job).await?.0)
    }

    /// A job's record and what happens from now on. A job that has ended sends its last event again.
    pub async fn events(&self, job: JobId) -> Result<JobHandle, ClusterError> {
        let (record, events) = self.view(job).await?;
        Ok(JobHandle { id: record.id, record, events })
    }

    /// The picture and the trace that a finished job left; none before it is done and if it failed.
    pub async fn files(&self, job: JobId) -> Result<Option<JobFiles>, ClusterError> {
        let files = ask(&self.parts.queue, |reply| QueueMessage::Files(job, reply)).await?;
        Ok(files?)
    }

    /// All that a finished job left; none before it is done, if it failed, and if jobs are kept on disk: there are its
    /// [`files`](Self::files) alone.
    pub async fn outcome(&self, job: JobId) -> Result<Option<Arc<JobOutcome>>, ClusterError> {
        ask(&self.parts.queue, |reply| QueueMessage::Outcome(job, reply)).await
    }

    /// Stops a job; a running one frees its workers. Returns its record when it has ended.
    pub async fn cancel(&self, job: JobId) -> Result<JobRecord, ClusterError> {
        let record = ask(&self.parts.queue, |reply| QueueMessage::Cancel(job, reply)).await?;
        record.ok_or(ClusterError::UnknownJob { job })
    }

    /// The workers, by name.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>, ClusterError> {
        ask(&self.parts.membership, MembershipMessage::Workers).await
    }

    /// Sessions with all workers, in the order of their names.
    pub(crate) async fn handles(&self) -> Result<Vec<WorkerHandle>, ClusterError> {
        ask(&self.parts.membership, MembershipMessage::Handles).await
    }

    /// Has a worker leave as soon as no job needs it; jobs that do move to others first. False if there is none of that name.
    pub async fn drain(&self, worker: &str) -> Result<bool, ClusterError> {
        let name = worker.to_owned();
        ask(&self.parts.membership, |reply| MembershipMessage::Drain { name, reply: Some(reply) }).await
    }

    /// Waits until as many workers are there.
    pub async fn wait_for_workers(&self, wanted: usize, within: Duration) -> Result<(), ClusterError> {
        let mut workers = self.workers.clone();
        let waiting = tokio::time::timeout(within, workers.wait_for(|&count| count >= wanted)).await;
        match waiting {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ClusterError::Stopped),
            Err(_) => Err(ClusterError::TooFewWorkers { found: *self.workers.borrow(), wanted, within }),
        }
    }

    /// Tells that a worker's process has ended, so that its job need not wait for the heartbeat to be missed.
    pub fn report_ended(&self, name: &str, reason: &str) {
        let message = MembershipMessage::ProcessEnded { name: name.to_owned(), reason: reason.to_owned() };
        if self.parts.membership.send_message(message).is_err() {
            tracing::debug!(name, "a worker's process ended after the coordinator's actors");
        }
    }

    /// What would be done for settings now. Measures what has not been measured yet.
    pub async fn plan(&self, settings: &JobSettings) -> Result<PlannedJob, ClusterError> {
        let mut setup = self.store.planning_setup(settings).map_err(JobFailed::Store)?;
        let workers = self.handles().await?;
        if workers.is_empty() {
            return Err(ClusterError::NoWorkers);
        }
        let devices: Vec<&DeviceInfo> = workers.iter().flat_map(|worker| worker.devices()).collect();
        setup.settle_compute(&devices).map_err(JobFailed::Store)?;
        let Planned { choice, links } =
            make_plan(&workers, &setup, &settings.wishes, &self.limits, StepIndex(0)).await?;
        // Known since the plan was made.
        let measured = measure_all(&workers, &setup, &self.limits).await?;
        let costs = measured.into_iter().map(|measured| measured.whole).collect();
        let ranks = usize::from(choice.placed.world_size);
        let workers = workers.iter().take(ranks).map(|worker| worker.name().to_owned()).collect();
        let (rows, compute) = (setup.settings.rows(), setup.denoiser.compute);
        let program = Arc::clone(&setup.program.program);
        Ok(PlannedJob { choice, program, workers, costs, links, rows, compute })
    }

    /// Starts no more jobs. Those that wait go on waiting.
    pub fn hold(&self) {
        if self.parts.queue.send_message(QueueMessage::Hold).is_err() {
            tracing::debug!("the queue ended before it was told to hold");
        }
    }

    /// Ends in order: jobs are cancelled or, if they are kept on disk, left for the next start; workers hear a farewell,
    /// actors stop. Takes no longer than `within`, about.
    pub async fn shutdown(mut self, within: Duration) {
        let deadline = Instant::now() + within;
        if self.kept.is_none() {
            self.end_jobs(deadline).await;
        } else if let Err(error) = ask(&self.parts.queue, QueueMessage::Rest).await {
            tracing::warn!(%error, "the queue does not rest");
        }
        let goodbye = MembershipMessage::SayGoodbye { reason: "the coordinator stops".to_owned() };
        if self.parts.membership.send_message(goodbye).is_ok() {
            let mut workers = self.workers.clone();
            // At the deadline the links are simply closed.
            let _ = tokio::time::timeout_at(deadline, workers.wait_for(|&count| count == 0)).await;
        }
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        if self.root.stop_and_wait(None, Some(left)).await.is_err() {
            tracing::warn!("the coordinator's actors did not stop in time");
        }
        let Some(kept) = self.kept.take() else { return };
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        // The receiver ends with an error: nothing is ever sent.
        if tokio::time::timeout(left, kept).await.is_err() {
            tracing::warn!("the database of jobs was not closed in time; it is repaired at the next start");
        }
    }

    /// Cancels all jobs and waits until they have ended.
    pub(crate) async fn end_jobs(&self, deadline: Instant) {
        for job in self.jobs().await.unwrap_or_default() {
            // Those that have ended stay as they are.
            if let (Ok(_), Ok(handle)) = (self.cancel(job.id).await, self.events(job.id).await) {
                // At the deadline the job ends with the actors.
                let _ = tokio::time::timeout_at(deadline, handle.ended()).await;
            }
        }
    }

    async fn view(&self, job: JobId) -> Result<JobView, ClusterError> {
        let view = ask(&self.parts.queue, |reply| QueueMessage::View(job, reply)).await?;
        view.ok_or(ClusterError::UnknownJob { job })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Children are stopped with the root; after `shutdown` there is nothing left to stop.
        self.root.stop(None);
    }
}

impl JobHandle {
    /// Waits for the job's end. The wait is bounded by the job's own deadlines; a job in the queue may wait for long.
    pub async fn ended(mut self) -> Result<JobRecord, ClusterError> {
        loop {
            match self.events.recv().await {
                Ok(JobEvent::Ended { job }) => return Ok(*job),
                // Who is behind goes on with the oldest event that is kept.
                Ok(JobEvent::Changed { .. }) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Err(ClusterError::Stopped),
            }
        }
    }
}

impl ClusterError {
    /// The error as users see it.
    #[must_use]
    pub fn to_error(&self) -> JobError {
        let fault = match self {
            Self::Job(failed) => return failed.to_error(),
            Self::Refused(SubmitRefused::NotKept { .. }) | Self::Keeping(_) => Fault::Hardware,
            Self::Refused(SubmitRefused::Full { .. }) | Self::UnknownJob { .. } => Fault::Operator,
            Self::NoWorkers | Self::TooFewWorkers { .. } => Fault::Peer,
            Self::Stopped => Fault::Bug,
        };
        let (message, hint) = split_hint(&self.to_string());
        JobError { message, hint: hint.unwrap_or_default(), fault }
    }
}

/// Reads and checks what an earlier life left, and starts to keep what comes.
async fn restore(
    jobs: JobStore,
    store: Arc<ModelStore>,
) -> Result<(Keeping, Option<oneshot::Receiver<()>>), ClusterError> {
    let restoring = tokio::task::spawn_blocking(move || {
        let restored = jobs.load()?.into_iter().map(|kept| RestoredJob::new(kept, &store)).collect();
        let (next_job, first_epoch) = (jobs.next_job(), jobs.first_epoch());
        let (writer, closed) = JobWriter::start(jobs);
        Ok((Keeping { writer: Some(writer), restored, next_job, first_epoch }, Some(closed)))
    });
    let restored = restoring.await.map_err(|error| JobFailed::Bug { what: error.to_string() })?;
    restored.map_err(|error: JobStoreError| Arc::new(error).into())
}

/// Asks an actor and waits for its answer, within a deadline.
async fn ask<M: Message, T: Send + 'static>(
    actor: &ActorRef<M>,
    message: impl FnOnce(RpcReplyPort<T>) -> M,
) -> Result<T, ClusterError> {
    let (reply, answer) = oneshot::channel();
    actor.send_message(message(reply.into())).map_err(|_| ClusterError::Stopped)?;
    match tokio::time::timeout(ANSWER_WITHIN, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) | Err(_) => Err(ClusterError::Stopped),
    }
}
