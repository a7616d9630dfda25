//! All jobs: who asked for what, how it goes, what came of it. Starts the next job when workers are free.

mod job_entry;
mod keeping;
mod pipelines;
mod retention;
mod sharing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_plan::{Epoch, JobId};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use thiserror::Error;
use tokio::sync::broadcast;

use super::Limits;
use super::denoiser::DenoiserMessage;
use super::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::job::{JobEvent, JobRecord, Move, Recovery};
use crate::job_spec::JobOutcome;
use crate::job_store::{FoundFiles, JobWriter, Progress};
use crate::model_store::{CheckedJob, ModelStore};
use job_entry::JobEntry;
pub(crate) use keeping::{Keeping, RestoredJob};
use pipelines::Pipelines;
use retention::Retention;
use sharing::Running;

/// The queue of jobs. Each takes the workers that its plan has use for; with those who are left the next one runs beside it.
///
/// Started by the root and ends with it. Its jobs end with it too, or are on disk and go on when the coordinator is started
/// again. A Denoiser that fails fails its job.
pub(crate) struct Queue;

pub(crate) struct QueueArguments {
    pub(crate) store: Arc<ModelStore>,
    pub(crate) limits: Limits,
    pub(crate) keeping: Keeping,
}

/// What a job ended with.
pub(crate) type JobEnd = Result<Box<JobOutcome>, JobFailed>;

/// A job's record and the events that follow it.
pub(crate) type JobView = (JobRecord, broadcast::Receiver<JobEvent>);

/// A job that somebody wants.
pub(crate) struct Submission {
    pub(crate) checked: CheckedJob,
    /// By which it is known if it is submitted again; it is then not done again.
    pub(crate) key: Option<String>,
}

/// Why the queue does not take a job.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SubmitRefused {
    /// It has no place.
    #[error("{length} jobs are waiting and no more are taken\nhint: wait for one to end, or cancel one")]
    Full {
        /// Jobs that wait.
        length: usize,
    },
    /// The job could not be written to disk.
    #[error("the job is not taken, because it could not be kept: {reason}")]
    NotKept {
        /// What failed.
        reason: String,
    },
}

pub(crate) enum QueueMessage {
    Cancel(JobId, RpcReplyPort<Option<JobRecord>>),
    /// A denoiser has ended, well or not. Sent by the queue to itself when supervision says so, because supervision
    /// overtakes messages: by now the job's end has been read if the denoiser reported one.
    DenoiserGone {
        denoiser: ActorId,
        what: String,
    },
    /// A job's end is on disk, or an error says why not.
    EndKept {
        job: JobId,
        error: Option<String>,
    },
    /// What a job left; none before it is done and if it failed.
    Files(JobId, RpcReplyPort<FoundFiles>),
    /// Start no more jobs: the coordinator is about to end.
    Hold,
    JobEnded {
        job: JobId,
        end: JobEnd,
    },
    Jobs(RpcReplyPort<Vec<JobRecord>>),
    /// A job that was submitted could not be written to disk.
    NotKept {
        job: JobId,
    },
    Outcome(JobId, RpcReplyPort<Option<Arc<JobOutcome>>>),
    /// A job was not done in time.
    Overdue {
        job: JobId,
        within: Duration,
    },
    PhaseChanged {
        job: JobId,
        phase: &'static str,
    },
    Moved {
        job: JobId,
        to: Move,
    },
    /// A running job got further, which is to be kept.
    Progressed {
        job: JobId,
        progress: Progress,
        then: Box<dyn FnOnce() + Send>,
    },
    Recovered {
        job: JobId,
        recoveries: Vec<Recovery>,
    },
    /// Leave the running job where it is: it goes on when the coordinator is started again.
    Rest(RpcReplyPort<()>),
    /// Workers of before have had the time to come back.
    ReturnOverdue,
    /// A job has thought of workers, and uses some of them; `None`: those that it used before.
    Settled {
        job: JobId,
        considered: BTreeSet<String>,
        uses: Option<BTreeSet<String>>,
    },
    /// A job waits for more workers than it has.
    Short {
        job: JobId,
    },
    StepsTaken {
        job: JobId,
        taken: u32,
    },
    Submit(Box<Submission>, RpcReplyPort<Result<JobView, SubmitRefused>>),
    View(JobId, RpcReplyPort<Option<JobView>>),
    Warned {
        job: JobId,
        warnings: Vec<String>,
    },
    WorkerJoined(WorkerHandle),
    WorkerLeft {
        name: String,
    },
    /// A worker is to leave.
    WorkersChanged,
}

pub(crate) struct QueueState {
    store: Arc<ModelStore>,
    limits: Limits,
    next: JobId,
    jobs: BTreeMap<JobId, JobEntry>,
    waiting: VecDeque<JobId>,
    running: BTreeMap<JobId, Running>,
    /// Who runs with whom.
    pipelines: Pipelines,
    /// Something changed that decides about which jobs run with whom.
    is_stirred: bool,
    retention: Retention,
    workers: BTreeMap<String, WorkerHandle>,
    /// Where jobs are kept; none: in memory alone.
    writer: Option<JobWriter>,
    /// Of the first placement of every job.
    first_epoch: Epoch,
    /// Workers that jobs of before ran on, and that are not back yet. Nothing starts until they are, or have had the time.
    returning: BTreeSet<String>,
    _return_deadline: Option<OwnedTask>,
    /// No more jobs are started.
    is_holding: bool,
    /// Jobs whose workers go away do not fail.
    is_resting: bool,
}

impl Actor for Queue {
    type Msg = QueueMessage;
    type State = QueueState;
    type Arguments = QueueArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<QueueMessage>,
        arguments: QueueArguments,
    ) -> Result<QueueState, ActorProcessingErr> {
        let QueueArguments { store, limits, keeping } = arguments;
        let mut state = QueueState {
            retention: Retention::new(limits.kept_jobs, limits.kept_bytes),
            store,
            pipelines: Pipelines::new(limits.side_by_side),
            limits,
            next: keeping.next_job,
            jobs: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            is_stirred: true,
            workers: BTreeMap::new(),
            writer: keeping.writer,
            first_epoch: keeping.first_epoch,
            returning: BTreeSet::new(),
            _return_deadline: None,
            is_holding: false,
            is_resting: false,
        };
        state.restore(&myself, keeping.restored);
        state.await_return(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<QueueMessage>,
        message: QueueMessage,
        state: &mut QueueState,
    ) -> Result<(), ActorProcessingErr> {
        state.handle_message(&myself, message);
        if std::mem::take(&mut state.is_stirred) {
            state.share_out(&myself).await;
        }
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
    fn handle_message(&mut self, myself: &ActorRef<QueueMessage>, message: QueueMessage) {
        match message {
            QueueMessage::Cancel(job, reply) => {
                self.cancel(myself, job);
                match self.jobs.get_mut(&job) {
                    // That it is cancelled is said when it is, and when that is on disk.
                    Some(entry) if !entry.has_ended() => entry.awaiting_end.push(reply),
                    entry => {
                        let _ = reply.send(entry.map(|entry| entry.record.clone()));
                    }
                }
            }
            QueueMessage::DenoiserGone { denoiser, what } => self.handle_denoiser_gone(myself, denoiser, what),
            QueueMessage::EndKept { job, error } => self.announce_end(job, error),
            QueueMessage::Files(job, reply) => self.files(job, reply),
            QueueMessage::Hold => self.is_holding = true,
            QueueMessage::JobEnded { job, end } => self.handle_ended(myself, job, end),
            QueueMessage::Jobs(reply) => {
                let _ = reply.send(self.jobs.values().map(|entry| entry.record.clone()).collect());
            }
            QueueMessage::NotKept { job } => self.handle_not_kept(myself, job),
            QueueMessage::Outcome(job, reply) => {
                let _ = reply.send(self.jobs.get(&job).and_then(|entry| entry.outcome.clone()));
            }
            QueueMessage::Overdue { job, within } => {
                self.give_up(myself, job, move |steps| JobFailed::Overdue { within, steps });
            }
            QueueMessage::PhaseChanged { job, phase } => self.change(job, |record| phase.clone_into(&mut record.phase)),
            QueueMessage::Moved { job, to } => {
                self.change(job, |record| record.moves.push(to));
                self.keep_record(job);
            }
            QueueMessage::Progressed { job, progress, then } => self.keep_progress(job, progress, then),
            QueueMessage::Recovered { job, recoveries } => {
                self.change(job, |record| record.recoveries.extend(recoveries));
                self.keep_record(job);
            }
            QueueMessage::Rest(reply) => {
                self.rest();
                let _ = reply.send(());
            }
            QueueMessage::ReturnOverdue => {
                self.returning.clear();
                self.is_stirred = true;
            }
            QueueMessage::Settled { job, considered, uses } => {
                self.rearrange(|pipelines| pipelines.settle(job, &considered, uses));
            }
            QueueMessage::Short { job } => self.rearrange(|pipelines| pipelines.fall_short(job)),
            QueueMessage::StepsTaken { job, taken } => self.change(job, |record| record.progress.0 = taken),
            QueueMessage::Submit(submission, reply) => self.submit(myself, *submission, reply),
            QueueMessage::View(job, reply) => {
                let _ = reply.send(self.jobs.get(&job).map(JobEntry::view));
            }
            QueueMessage::Warned { job, warnings } => self.change(job, |record| record.warnings.extend(warnings)),
            QueueMessage::WorkerJoined(worker) => self.handle_joined(worker),
            QueueMessage::WorkerLeft { name } => {
                self.workers.remove(&name);
                self.is_stirred = true;
            }
            QueueMessage::WorkersChanged => self.is_stirred = true,
        }
    }

    fn cancel(&mut self, myself: &ActorRef<QueueMessage>, job: JobId) {
        self.give_up(myself, job, |steps| JobFailed::Cancelled { steps });
    }

    /// Ends a job before its time: by a message to its denoiser, or at once if it waits.
    fn give_up(
        &mut self,
        myself: &ActorRef<QueueMessage>,
        job: JobId,
        failed: impl FnOnce(u32) -> JobFailed + Send + 'static,
    ) {
        if let Some(Running { denoiser, .. }) = self.running.get(&job) {
            // A denoiser that has ended reports so by itself.
            let _ = denoiser.send_message(DenoiserMessage::GiveUp(Box::new(failed)));
        } else if let Some(place) = self.waiting.iter().position(|waiting| *waiting == job) {
            self.waiting.remove(place);
            let steps = self.jobs.get(&job).map_or(0, |entry| entry.record.progress.0);
            self.handle_ended(myself, job, Err(failed(steps)));
        }
    }

    /// Usually its job has ended before it: then it is not the running one any more.
    fn handle_denoiser_gone(&mut self, myself: &ActorRef<QueueMessage>, denoiser: ActorId, what: String) {
        let found = self.running.iter().find(|(_, running)| running.denoiser.get_id() == denoiser);
        let Some((&job, _)) = found else { return };
        tracing::error!(%job, what, "the denoiser failed");
        self.send_away(job);
        self.handle_ended(myself, job, Err(JobFailed::Bug { what }));
    }

    /// Gives workers that jobs of before ran on some time to come back: a job that starts with the first of them would go
    /// without the others.
    fn await_return(&mut self, myself: &ActorRef<QueueMessage>) {
        if self.returning.is_empty() {
            return;
        }
        let (myself, within) = (myself.clone(), self.limits.return_within);
        self._return_deadline = Some(OwnedTask::spawn(async move {
            tokio::time::sleep(within).await;
            // A queue that has ended waits for nobody.
            let _ = myself.send_message(QueueMessage::ReturnOverdue);
        }));
    }

    fn rest(&mut self) {
        (self.is_holding, self.is_resting) = (true, true);
        for (job, Running { denoiser, .. }) in &self.running {
            denoiser.stop(None);
            self.send_away(*job);
        }
    }

    /// Has every worker forget a job whose denoiser cannot say whom it met.
    fn send_away(&self, job: JobId) {
        for worker in self.workers.values() {
            worker.drop_job(job, self.limits.release_within);
        }
    }

    fn change(&mut self, job: JobId, change: impl FnOnce(&mut JobRecord)) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            change(&mut entry.record);
            entry.announce();
        }
    }
}

const WAITING_FOR_RETURN: &str = "waiting for workers to come back";
pub(crate) const WAITING_FOR_BUSY: &str = "waiting for workers that other jobs use";
pub(crate) const WAITING_FOR_WORKERS: &str = "waiting for a worker to join";
