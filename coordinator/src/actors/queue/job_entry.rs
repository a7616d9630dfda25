//! One job as the queue keeps it.

use std::sync::Arc;

use asyncdiff_plan::JobId;
use tokio::sync::broadcast;

use super::{JobEnd, JobView};
use crate::failure::JobFailed;
use crate::job::{JobEvent, JobRecord, JobState};
use crate::job_spec::JobOutcome;
use crate::model_store::CheckedJob;

/// Events that a listener may be behind. Each holds the whole record, so one that missed some is up to date with the
/// next.
const EVENTS_BEHIND: usize = 64;

pub(super) struct JobEntry {
    pub(super) record: JobRecord,
    /// Until the job starts.
    pub(super) checked: Option<Box<CheckedJob>>,
    /// When it is done.
    pub(super) outcome: Option<Arc<JobOutcome>>,
    events: broadcast::Sender<JobEvent>,
}

impl JobEntry {
    pub(super) fn new(id: JobId, checked: CheckedJob) -> Self {
        let record = JobRecord {
            id,
            request: checked.spec.request(),
            state: JobState::Queued,
            phase: String::new(),
            progress: (0, checked.setup.evaluations.get()),
            warnings: checked.warnings.clone(),
            recoveries: Vec::new(),
            error: None,
            summary: None,
        };
        let events = broadcast::Sender::new(EVENTS_BEHIND);
        Self { record, checked: Some(Box::new(checked)), outcome: None, events }
    }

    /// The record now and the events from now on. A job that has ended sends its last event again.
    pub(super) fn view(&self) -> JobView {
        let listener = self.events.subscribe();
        if self.has_ended() {
            // There is a listener: the one above.
            let _ = self.events.send(self.event());
        }
        (self.record.clone(), listener)
    }

    /// Tells listeners that the record changed.
    pub(super) fn announce(&self) {
        if self.events.receiver_count() > 0 {
            // The last listener may leave at this very moment.
            let _ = self.events.send(self.event());
        }
    }

    /// Notes how the job ended.
    pub(super) fn end(&mut self, end: JobEnd) {
        self.checked = None;
        match end {
            Ok(mut outcome) => {
                self.record.state = JobState::Done;
                "done".clone_into(&mut self.record.phase);
                self.record.summary = outcome.record.summary.take();
                outcome.record = self.record.clone();
                self.outcome = Some(Arc::from(outcome));
            }
            Err(failed) => {
                let error = failed.to_error();
                let cancelled = matches!(failed, JobFailed::Cancelled { .. });
                self.record.state = if cancelled { JobState::Cancelled } else { JobState::Failed };
                self.record.phase = if cancelled { "cancelled" } else { "failed" }.to_owned();
                self.record.error = Some(error);
            }
        }
        self.announce();
    }

    fn has_ended(&self) -> bool {
        matches!(self.record.state, JobState::Cancelled | JobState::Done | JobState::Failed)
    }

    fn event(&self) -> JobEvent {
        let job = Box::new(self.record.clone());
        if self.has_ended() { JobEvent::Ended { job } } else { JobEvent::Changed { job } }
    }
}
