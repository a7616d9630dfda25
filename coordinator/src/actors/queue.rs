//! All jobs: who asked for what, how it goes, what came of it. Starts the next job when the one before has ended and a
//! worker is there.

mod job_entry;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use asyncdiff_plan::JobId;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use thiserror::Error;
use tokio::sync::broadcast;

use super::Limits;
use super::denoiser::{Denoiser, DenoiserArguments, DenoiserMessage};
use super::job_reporter::JobReporter;
use super::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::job::{JobEvent, JobRecord, JobState, Recovery};
use crate::job_spec::JobOutcome;
use crate::model_store::{CheckedJob, ModelStore};
use job_entry::JobEntry;

/// The queue of jobs, one at a time over all workers.
///
/// Started by the root and ends with it; its jobs end with it. A Denoiser that fails fails its job.
pub(crate) struct Queue;

pub(crate) struct QueueArguments {
    pub(crate) store: Arc<ModelStore>,
    pub(crate) limits: Limits,
}

/// What a job ended with.
pub(crate) type JobEnd = Result<Box<JobOutcome>, JobFailed>;

/// A job's record and the events that follow it.
pub(crate) type JobView = (JobRecord, broadcast::Receiver<JobEvent>);

/// The queue has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{length} jobs are waiting and no more are taken\nhint: wait for one to end, or cancel one")]
pub struct QueueFull {
    /// Jobs that wait.
    pub length: usize,
}

pub(crate) enum QueueMessage {
    Cancel(JobId, RpcReplyPort<Option<JobRecord>>),
    /// A denoiser has ended, well or not. Sent by the queue to itself when supervision says so, because supervision
    /// overtakes messages: by now the job's end has been read if the denoiser reported one.
    DenoiserGone {
        denoiser: ActorId,
        what: String,
    },
    JobEnded {
        job: JobId,
        end: JobEnd,
    },
    Jobs(RpcReplyPort<Vec<JobRecord>>),
    Outcome(JobId, RpcReplyPort<Option<Arc<JobOutcome>>>),
    PhaseChanged {
        job: JobId,
        phase: &'static str,
    },
    Recovered {
        job: JobId,
        recoveries: Vec<Recovery>,
    },
    StepsTaken {
        job: JobId,
        taken: u32,
    },
    Submit(Box<CheckedJob>, RpcReplyPort<Result<JobView, QueueFull>>),
    View(JobId, RpcReplyPort<Option<JobView>>),
    Warned {
        job: JobId,
        warnings: Vec<String>,
    },
    WorkerJoined(WorkerHandle),
    WorkerLeft {
        name: String,
    },
}

pub(crate) struct QueueState {
    store: Arc<ModelStore>,
    limits: Limits,
    next: JobId,
    jobs: BTreeMap<JobId, JobEntry>,
    waiting: VecDeque<JobId>,
    running: Option<(JobId, ActorRef<DenoiserMessage>)>,
    /// Ended jobs, the oldest first.
    ended: VecDeque<JobId>,
    workers: BTreeMap<String, WorkerHandle>,
}

impl Actor for Queue {
    type Msg = QueueMessage;
    type State = QueueState;
    type Arguments = QueueArguments;

    async fn pre_start(
        &self,
        _myself: ActorRef<QueueMessage>,
        arguments: QueueArguments,
    ) -> Result<QueueState, ActorProcessingErr> {
        Ok(QueueState {
            store: arguments.store,
            limits: arguments.limits,
            // Job 0 is what belongs to no job.
            next: JobId(1),
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: None,
            ended: VecDeque::new(),
            workers: BTreeMap::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<QueueMessage>,
        message: QueueMessage,
        state: &mut QueueState,
    ) -> Result<(), ActorProcessingErr> {
        state.handle_message(message);
        state.start_next(&myself).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<QueueMessage>,
        event: SupervisionEvent,
        _state: &mut QueueState,
    ) -> Result<(), ActorProcessingErr> {
        let (denoiser, what) = match event {
            SupervisionEvent::ActorFailed(denoiser, error) => (denoiser, error.to_string()),
            SupervisionEvent::ActorTerminated(denoiser, _, _) => {
                (denoiser, "the denoiser ended without a result".to_owned())
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        let message = QueueMessage::DenoiserGone { denoiser: denoiser.get_id(), what };
        // The queue is there: it is running this.
        let _ = myself.send_message(message);
        Ok(())
    }
}

impl QueueState {
    // Whoever asked may have given up waiting, so a reply that finds nobody is no error.
    fn handle_message(&mut self, message: QueueMessage) {
        match message {
            QueueMessage::Cancel(job, reply) => {
                self.cancel(job);
                let _ = reply.send(self.jobs.get(&job).map(|entry| entry.record.clone()));
            }
            QueueMessage::DenoiserGone { denoiser, what } => self.handle_denoiser_gone(denoiser, what),
            QueueMessage::JobEnded { job, end } => self.handle_ended(job, end),
            QueueMessage::Jobs(reply) => {
                let _ = reply.send(self.jobs.values().map(|entry| entry.record.clone()).collect());
            }
            QueueMessage::Outcome(job, reply) => {
                let _ = reply.send(self.jobs.get(&job).and_then(|entry| entry.outcome.clone()));
            }
            QueueMessage::PhaseChanged { job, phase } => self.change(job, |record| phase.clone_into(&mut record.phase)),
            QueueMessage::Recovered { job, recoveries } => {
                self.change(job, |record| record.recoveries.extend(recoveries));
            }
            QueueMessage::StepsTaken { job, taken } => self.change(job, |record| record.progress.0 = taken),
            QueueMessage::Submit(checked, reply) => {
                let _ = reply.send(self.submit(*checked));
            }
            QueueMessage::View(job, reply) => {
                let _ = reply.send(self.jobs.get(&job).map(JobEntry::view));
            }
            QueueMessage::Warned { job, warnings } => self.change(job, |record| record.warnings.extend(warnings)),
            QueueMessage::WorkerJoined(worker) => {
                self.workers.insert(worker.name().to_owned(), worker);
                self.tell_workers();
            }
            QueueMessage::WorkerLeft { name } => {
                self.workers.remove(&name);
                self.tell_workers();
            }
        }
    }

    /// Tells the running job who is in the cluster.
    fn tell_workers(&self) {
        if let Some((_, denoiser)) = &self.running {
            // One that has ended needs nobody.
            let _ = denoiser.send_message(DenoiserMessage::WorkersChanged(self.workers.values().cloned().collect()));
        }
    }

    fn submit(&mut self, checked: CheckedJob) -> Result<JobView, QueueFull> {
        if self.waiting.len() >= self.limits.queue_length {
            return Err(QueueFull { length: self.waiting.len() });
        }
        let job = self.next;
        self.next = JobId(job.0 + 1);
        let mut entry = JobEntry::new(job, checked);
        entry.record.phase = match &self.running {
            Some((running, _)) => format!("waiting for {running}"),
            None if self.workers.is_empty() => WAITING_FOR_WORKERS.to_owned(),
            None => "starting".to_owned(),
        };
        let view = entry.view();
        self.jobs.insert(job, entry);
        self.waiting.push_back(job);
        Ok(view)
    }

    fn cancel(&mut self, job: JobId) {
        if let Some((running, denoiser)) = &self.running
            && *running == job
        {
            // A denoiser that has ended reports so by itself.
            let _ = denoiser.send_message(DenoiserMessage::Cancel);
        } else if let Some(place) = self.waiting.iter().position(|waiting| *waiting == job) {
            self.waiting.remove(place);
            self.handle_ended(job, Err(JobFailed::Cancelled { steps: 0 }));
        }
    }

    /// Usually its job has ended before it: then it is not the running one any more.
    fn handle_denoiser_gone(&mut self, denoiser: ActorId, what: String) {
        let Some((job, running)) = &self.running else { return };
        if running.get_id() != denoiser {
            return;
        }
        let job = *job;
        tracing::error!(%job, what, "the denoiser failed");
        for worker in self.workers.values() {
            worker.close_job(job);
            worker.release(job, self.limits.release_within);
        }
        self.handle_ended(job, Err(JobFailed::Bug { what }));
    }

    fn handle_ended(&mut self, job: JobId, end: JobEnd) {
        if self.running.as_ref().is_some_and(|(running, _)| *running == job) {
            self.running = None;
        }
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        entry.end(end);
        tracing::info!(%job, state = ?entry.record.state, "job ended");
        self.ended.push_back(job);
        while self.ended.len() > self.limits.kept_jobs {
            if let Some(oldest) = self.ended.pop_front() {
                self.jobs.remove(&oldest);
            }
        }
    }

    fn change(&mut self, job: JobId, change: impl FnOnce(&mut JobRecord)) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            change(&mut entry.record);
            entry.announce();
        }
    }

    async fn start_next(&mut self, myself: &ActorRef<QueueMessage>) {
        if self.running.is_some() {
            return;
        }
        // The news of a lost worker may be on its way while its job's end is here already.
        let workers: Vec<WorkerHandle> =
            self.workers.values().filter(|worker| worker.is_connected()).cloned().collect();
        if workers.is_empty() {
            let first = self.waiting.front().copied();
            if let Some(entry) = first.and_then(|job| self.jobs.get_mut(&job))
                && entry.record.phase != WAITING_FOR_WORKERS
            {
                WAITING_FOR_WORKERS.clone_into(&mut entry.record.phase);
                entry.announce();
            }
            return;
        }
        let Some(job) = self.waiting.pop_front() else { return };
        let Some(checked) = self.jobs.get_mut(&job).and_then(|entry| entry.checked.take()) else { return };
        self.change(job, |record| record.state = JobState::Running);
        let arguments = DenoiserArguments {
            checked,
            reporter: JobReporter { job, queue: myself.clone() },
            workers,
            store: Arc::clone(&self.store),
            limits: self.limits.clone(),
        };
        match Denoiser::spawn_linked(None, Denoiser, arguments, myself.get_cell()).await {
            Ok((denoiser, _task)) => self.running = Some((job, denoiser)),
            Err(error) => self.handle_ended(job, Err(JobFailed::Bug { what: error.to_string() })),
        }
    }
}

pub(crate) const WAITING_FOR_WORKERS: &str = "waiting for a worker to join";
