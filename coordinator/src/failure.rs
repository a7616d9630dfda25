//! Why jobs fail: facts for programs, and the text, hint and fault that a user sees.

use std::time::Duration;

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_plan::{Lane, PolicyError, StepIndex};
use thiserror::Error;

use crate::job::{Fault, JobError};
use crate::model_store::StoreError;
use crate::picture::PictureError;

/// Why a job ended without its product.
#[derive(Debug, Error)]
pub enum JobFailed {
    /// A part of this program panicked or broke its own rules.
    #[error("the job ended by a bug in the coordinator: {what}")]
    Bug {
        /// What is known of it.
        what: String,
    },
    /// The user stopped it.
    #[error("cancelled after {steps} steps")]
    Cancelled {
        /// Steps taken.
        steps: u32,
    },
    /// A worker lives, and its device makes no progress.
    #[error("worker {worker}'s device hangs: it did nothing for {waited:.1?}")]
    DeviceHangs {
        /// Its name.
        worker: String,
        /// How long.
        waited: Duration,
    },
    /// The workers that were left could not go on, and no other joined in time.
    #[error("no worker joined within {waited:.0?} that could go on with the job")]
    NoWorkers {
        /// How long was waited.
        waited: Duration,
    },
    /// The coordinator ended each time that the job was started.
    #[error("the coordinator ended {starts} times while it ran, and it never got further")]
    NeverAgain {
        /// How often it was started.
        starts: u32,
    },
    /// It was not done in time.
    #[error("the job was not done {within:.0?} after it was submitted: it was given up after {steps} steps")]
    Overdue {
        /// The limit.
        within: Duration,
        /// Steps taken.
        steps: u32,
    },
    /// The picture could not be encoded.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The settings make no plan here.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A worker did not answer in time.
    #[error("worker {worker} did not finish {what} within {within:?}")]
    RequestOverdue {
        /// Its name.
        worker: String,
        /// What it was asked to do.
        what: &'static str,
        /// The limit.
        within: Duration,
    },
    /// A worker's noise prediction did not arrive in time.
    #[error("worker {worker} sent no noise prediction of step {} for {waited:?}", step.0)]
    StepOverdue {
        /// Its name.
        worker: String,
        /// The step that is waited for.
        step: StepIndex,
        /// How long nothing arrived.
        waited: Duration,
    },
    /// The model cannot make what was asked for.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A worker's link takes no more tensors.
    #[error("worker {worker} takes no more latents: {reason}")]
    Stalled {
        /// Its name.
        worker: String,
        /// What the link said.
        reason: String,
    },
    /// A worker sent a noise prediction that the plan does not expect of it.
    #[error("worker {worker} sent a noise prediction of step {}, lane {lane:?}, that the plan does not expect", step.0)]
    UnexpectedPrediction {
        /// Its name.
        worker: String,
        /// The step.
        step: StepIndex,
        /// The rows.
        lane: Lane,
    },
    /// A worker answered a request with something else than what was asked for.
    #[error("worker {worker} answered {what} with something else")]
    UnexpectedReply {
        /// Its name.
        worker: String,
        /// What it was asked to do.
        what: &'static str,
    },
    /// A worker could not do what it was asked to.
    #[error("worker {worker} could not do its part: {failure}")]
    WorkerFailed {
        /// Its name.
        worker: String,
        /// What it said.
        failure: WorkerFailure,
    },
    /// A worker is gone.
    #[error("worker {worker} was lost ({reason})")]
    WorkerLost {
        /// Its name.
        worker: String,
        /// How it was noticed.
        reason: String,
    },
}

const BUG_HINT: &str = "please report it with the coordinator's log";
const VERSION_HINT: &str = "run the same version of this software on coordinator and workers";

impl JobFailed {
    /// The error as users see it.
    #[must_use]
    pub fn to_error(&self) -> JobError {
        let (message, found_hint) = split_hint(&self.to_string());
        JobError { message, hint: found_hint.unwrap_or_else(|| self.hint().to_owned()), fault: self.fault() }
    }

    /// The worker that it is about.
    #[must_use]
    pub fn worker(&self) -> Option<&str> {
        match self {
            Self::Bug { .. }
            | Self::Cancelled { .. }
            | Self::NeverAgain { .. }
            | Self::NoWorkers { .. }
            | Self::Overdue { .. }
            | Self::Picture(_)
            | Self::Policy(_)
            | Self::Store(_) => None,
            Self::DeviceHangs { worker, .. }
            | Self::RequestOverdue { worker, .. }
            | Self::Stalled { worker, .. }
            | Self::StepOverdue { worker, .. }
            | Self::UnexpectedPrediction { worker, .. }
            | Self::UnexpectedReply { worker, .. }
            | Self::WorkerFailed { worker, .. }
            | Self::WorkerLost { worker, .. } => Some(worker),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Bug { .. } | Self::Picture(_) => BUG_HINT,
            Self::Cancelled { .. } => "submit it again if it was a mistake",
            Self::NeverAgain { .. } => {
                "see the coordinator's log for why it ended; submit the job again if that was not the job's doing"
            }
            Self::NoWorkers { .. } => {
                "start workers with the join line and submit the job again; deadlines.wait_for_workers says how long a job waits"
            }
            Self::Overdue { .. } => {
                "see with `coordinator workers` and `coordinator jobs` what it waited for; --deadline and deadlines.job allow more time"
            }
            Self::Policy(_) | Self::Store(_) => "change the settings named above",
            Self::DeviceHangs { .. }
            | Self::RequestOverdue { .. }
            | Self::StepOverdue { .. }
            | Self::Stalled { .. } => {
                "check that worker's load, its log and its network; a larger limit can be set in the configuration"
            }
            Self::UnexpectedPrediction { .. } | Self::UnexpectedReply { .. } => VERSION_HINT,
            Self::WorkerFailed { failure, .. } => failure.hint(),
            Self::WorkerLost { .. } => {
                "see that worker's log for why it ended, start it again with the join line, and submit the job again"
            }
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Bug { .. } | Self::NeverAgain { .. } | Self::Picture(_) => Fault::Bug,
            Self::Cancelled { .. } => Fault::Cancelled,
            Self::Policy(_) | Self::Store(_) => Fault::Operator,
            Self::WorkerFailed { failure, .. } => match failure {
                WorkerFailure::BadWeight { .. } | WorkerFailure::LayerFailed { .. } => Fault::Operator,
                WorkerFailure::OutOfMemory { .. } => Fault::Hardware,
                WorkerFailure::Panicked { .. } => Fault::Bug,
                WorkerFailure::BadAssignment { .. }
                | WorkerFailure::PeerFailed { .. }
                | WorkerFailure::TimedOut { .. }
                | WorkerFailure::Unexpected { .. } => Fault::Peer,
            },
            Self::DeviceHangs { .. }
            | Self::NoWorkers { .. }
            | Self::Overdue { .. }
            | Self::RequestOverdue { .. }
            | Self::Stalled { .. }
            | Self::StepOverdue { .. }
            | Self::UnexpectedPrediction { .. }
            | Self::UnexpectedReply { .. }
            | Self::WorkerLost { .. } => Fault::Peer,
        }
    }
}

/// Parts an error's text from the `hint:` line that follows it.
#[must_use]
pub fn split_hint(text: &str) -> (String, Option<String>) {
    match text.split_once("\nhint: ") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_failure_names_the_worker_and_keeps_its_hint() {
        let failure = WorkerFailure::OutOfMemory { needed_bytes: 9, available_bytes: 3 };
        let error = JobFailed::WorkerFailed { worker: "gpu-box".to_owned(), failure: failure.clone() }.to_error();
        assert!(error.message.contains("worker gpu-box"), "{}", error.message);
        assert_eq!(error.hint, failure.hint());
        assert_eq!(error.fault, Fault::Hardware);
    }

    #[test]
    fn a_hint_in_the_text_takes_precedence_and_leaves_the_message() {
        let error = JobFailed::Store(StoreError::NoVae).to_error();
        assert!(!error.message.contains("hint:"), "{}", error.message);
        assert!(error.hint.starts_with("use a complete checkpoint"), "{}", error.hint);
        assert_eq!(error.fault, Fault::Operator);
    }
}
