//! How a running job tells the queue what it is doing.

use std::collections::BTreeSet;

use asyncdiff_plan::JobId;
use ractor::ActorRef;

use super::queue::{JobEnd, QueueMessage};
use crate::job::{Move, Recovery};
use crate::job_store::Progress;

/// Reports of one job. If the queue is gone the whole coordinator is, and nobody is left to hear.
#[derive(Clone)]
pub(crate) struct JobReporter {
    pub(crate) job: JobId,
    pub(crate) queue: ActorRef<QueueMessage>,
}

impl JobReporter {
    /// The job begins something else.
    pub(crate) fn phase(&self, phase: &'static str) {
        tracing::info!(job = %self.job, phase, "job");
        self.send(QueueMessage::PhaseChanged { job: self.job, phase });
    }

    /// Steps were taken.
    pub(crate) fn steps(&self, taken: u32) {
        self.send(QueueMessage::StepsTaken { job: self.job, taken });
    }

    /// Something that the user should know.
    pub(crate) fn warnings(&self, warnings: Vec<String>) {
        if !warnings.is_empty() {
            self.send(QueueMessage::Warned { job: self.job, warnings });
        }
    }

    /// The job survived something.
    pub(crate) fn recovered(&self, recoveries: Vec<Recovery>) {
        if !recoveries.is_empty() {
            self.send(QueueMessage::Recovered { job: self.job, recoveries });
        }
    }

    /// The job changed its plan without a fault.
    pub(crate) fn moved(&self, to: Move) {
        self.send(QueueMessage::Moved { job: self.job, to });
    }

    /// The job has thought of workers, and uses some of them; `None`: those that it used before.
    pub(crate) fn settled(&self, considered: BTreeSet<String>, uses: Option<BTreeSet<String>>) {
        self.send(QueueMessage::Settled { job: self.job, considered, uses });
    }

    /// The job waits for more workers than it has.
    pub(crate) fn short(&self) {
        self.send(QueueMessage::Short { job: self.job });
    }

    /// The job got further; `then` is done when that is on disk, or could not be written.
    pub(crate) fn progress(&self, progress: Progress, then: impl FnOnce() + Send + 'static) {
        self.send(QueueMessage::Progressed { job: self.job, progress, then: Box::new(then) });
    }

    /// The job ended.
    pub(crate) fn ended(&self, end: JobEnd) {
        self.send(QueueMessage::JobEnded { job: self.job, end });
    }

    fn send(&self, message: QueueMessage) {
        if self.queue.send_message(message).is_err() {
            tracing::debug!(job = %self.job, "the queue has ended");
        }
    }
}
