//! One job as the queue keeps it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_plan::JobId;
use ractor::RpcReplyPort;
use tokio::sync::broadcast;

use super::{JobEnd, JobView};
use crate::failure::JobFailed;
use crate::job::{JobEvent, JobRecord, JobState, JobTimes};
use crate::job_spec::{Conditions, InitialLatents, JobOutcome, Product};
use crate::job_store::{JobFiles, Progress, Starts};
use crate::model_store::CheckedJob;

/// Events that a listener may be behind. Each holds the whole record, so one that missed some is up to date with the
/// next.
const EVENTS_BEHIND: usize = 64;

pub(super) struct JobEntry {
    pub(super) record: JobRecord,
    /// By which it is known if it is submitted again.
    pub(super) key: Option<String>,
    /// Until the job starts.
    pub(super) checked: Option<Box<CheckedJob>>,
    /// Where it goes on, if an earlier life of the coordinator saved that.
    pub(super) saved: Option<Progress>,
    /// How it was started in earlier lives, and is in this one.
    pub(super) starts: Starts,
    /// The record at the end, until the end is announced.
    pub(super) ending: Option<JobRecord>,
    /// Who cancelled it and waits to hear that it is; as many as the API answers at a time.
    pub(super) awaiting_end: Vec<RpcReplyPort<Option<JobRecord>>>,
    /// When it is done, and until its files are on disk.
    pub(super) outcome: Option<Arc<JobOutcome>>,
    /// Whether it is kept where the queue keeps jobs: a job of tensors is made by a program that waits for it, and ends
    /// with that program.
    pub(super) is_kept: bool,
    /// Tells the queue when it is given up.
    pub(super) deadline: Option<OwnedTask>,
    /// Somebody was told that it is there.
    pub(super) is_answered: Arc<AtomicBool>,
    events: broadcast::Sender<JobEvent>,
}

impl JobEntry {
    pub(super) fn new(id: JobId, checked: CheckedJob) -> Self {
        let record = JobRecord {
            id,
            request: checked.spec.request(),
            times: JobTimes { submitted: now(), ..JobTimes::default() },
            state: JobState::Queued,
            phase: String::new(),
            progress: (0, checked.setup.evaluations.get()),
            warnings: checked.warnings.clone(),
            recoveries: Vec::new(),
            moves: Vec::new(),
            error: None,
            summary: None,
        };
        let is_kept = matches!(checked.spec.conditions, Conditions::Prompt { .. })
            && checked.spec.latents == InitialLatents::Seed(checked.spec.settings.seed)
            && checked.spec.product == Product::Picture;
        Self { is_kept, is_answered: Arc::default(), ..Self::restored(record, None, Some(Box::new(checked))) }
    }

    /// A job of an earlier life of the coordinator; checked again, if it has not ended.
    pub(super) fn restored(mut record: JobRecord, key: Option<String>, checked: Option<Box<CheckedJob>>) -> Self {
        if !record.has_ended() {
            record.state = JobState::Queued;
        }
        let events = broadcast::Sender::new(EVENTS_BEHIND);
        Self {
            record,
            key,
            checked,
            saved: None,
            starts: Starts::default(),
            ending: None,
            awaiting_end: Vec::new(),
            outcome: None,
            is_kept: true,
            deadline: None,
            is_answered: Arc::new(AtomicBool::new(true)),
            events,
        }
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

    /// How long it may take from its submission on, and how much of that is left: of a job of before the rest.
    pub(super) fn deadline(&self, most: Duration) -> (Duration, Duration) {
        let wanted = self.record.request.settings.deadline_seconds;
        let within = wanted.map_or(most, |seconds| most.min(Duration::from_secs(seconds.into())));
        let passed = Duration::from_secs(now().saturating_sub(self.record.times.submitted));
        (within, within.saturating_sub(passed))
    }

    /// Notes that it begins.
    pub(super) fn start(&mut self) {
        self.record.state = JobState::Running;
        self.record.times.started.get_or_insert(now());
    }

    /// Notes how the job ended, which nobody is told yet.
    pub(super) fn end(&mut self, end: JobEnd) {
        (self.checked, self.deadline) = (None, None);
        let mut record = self.record.clone();
        record.times.ended = Some(now());
        match end {
            Ok(mut outcome) => {
                record.state = JobState::Done;
                "done".clone_into(&mut record.phase);
                record.summary = outcome.record.summary.take();
                outcome.record = record.clone();
                self.outcome = Some(Arc::from(outcome));
            }
            Err(failed) => {
                let error = failed.to_error();
                let cancelled = matches!(failed, JobFailed::Cancelled { .. });
                record.state = if cancelled { JobState::Cancelled } else { JobState::Failed };
                record.phase = if cancelled { "cancelled" } else { "failed" }.to_owned();
                record.error = Some(error);
            }
        }
        self.ending = Some(record);
    }

    /// Tells listeners how it ended. What is on disk need not be in memory.
    pub(super) fn announce_end(&mut self, error: Option<String>, is_on_disk: bool) {
        let Some(mut record) = self.ending.take() else { return };
        if let Some(error) = error {
            record.warnings.push(format!("it is forgotten when the coordinator ends: {error}"));
        }
        self.record = record;
        if is_on_disk {
            self.outcome = None;
        }
        self.announce();
        for reply in self.awaiting_end.drain(..) {
            // Whoever cancelled it may have given up waiting.
            let _ = reply.send(Some(self.record.clone()));
        }
    }

    /// What it left, if it is in memory.
    pub(super) fn files(&self) -> JobFiles {
        let Some(outcome) = &self.outcome else { return JobFiles::default() };
        JobFiles { picture: outcome.picture.clone(), trace: outcome.trace.clone() }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.record.has_ended()
    }

    pub(super) fn is_running(&self) -> bool {
        self.record.state == JobState::Running
    }

    fn event(&self) -> JobEvent {
        let job = Box::new(self.record.clone());
        if self.has_ended() { JobEvent::Ended { job } } else { JobEvent::Changed { job } }
    }
}

/// Seconds since 1970 UTC.
fn now() -> u64 {
    asyncdiff_common::system::unix_micros() / 1_000_000
}
