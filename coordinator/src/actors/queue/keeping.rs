//! What the queue hands to the disk, and what it waits for before it tells anybody.
//!
//! ```text
//!   Submit ──► in the queue, may start ── Change::Updated ──► kept ──► the answer: a job that was answered for is on disk
//!   JobEnded ──► its workers are free ─── Change::Ended ────► kept ──► the end is announced: a picture that was
//!                                                                      announced is on disk
//! ```
//!
//! Without a database both happen at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_plan::{Epoch, JobId};
use ractor::{ActorRef, RpcReplyPort};

use super::super::denoiser::JobLife;
use super::job_entry::JobEntry;
use super::{JobEnd, JobView, QueueMessage, QueueState, Submission, SubmitRefused};
use crate::failure::JobFailed;
use crate::job::JobRecord;
use crate::job_store::{Change, FoundFiles, JobWriter, KeptJob, Progress, Starts, StoredJob};
use crate::model_store::{CheckedJob, ModelStore};

/// Where jobs are kept and what was found there.
pub(crate) struct Keeping {
    /// None: in memory alone.
    pub(crate) writer: Option<JobWriter>,
    /// In the order in which they were submitted.
    pub(crate) restored: Vec<RestoredJob>,
    /// The first id that no job has had.
    pub(crate) next_job: JobId,
    /// An epoch that no earlier life of this coordinator has used.
    pub(crate) first_epoch: Epoch,
}

/// A job of an earlier life of this coordinator.
pub(crate) struct RestoredJob {
    pub(crate) record: JobRecord,
    pub(crate) key: Option<String>,
    pub(crate) workers: Vec<String>,
    /// The one to come included.
    pub(crate) starts: Starts,
    pub(crate) file_bytes: u64,
    /// Of one that has not ended: checked again, because the model may be another one now.
    pub(crate) waiting: Option<Result<GoOn, JobFailed>>,
}

/// Starts of a job without a step saved in between, after which it is given up: coordinators are killed many times, but one that
/// ends in the same job each time would be started again for ever.
const STARTS_LIMIT: u32 = 100;

/// A job that goes on, and from where if anything was saved.
pub(crate) type GoOn = (Box<CheckedJob>, Option<Progress>);

impl Keeping {
    /// Jobs are kept in memory and end with the process.
    pub(crate) fn in_memory() -> Self {
        // Job 0 and epoch 0 are of what belongs to no job and no placement.
        Self { writer: None, restored: Vec::new(), next_job: JobId(1), first_epoch: Epoch(1) }
    }
}

impl RestoredJob {
    /// Checks a job against the model that serves now. Takes milliseconds.
    pub(crate) fn new(kept: KeptJob, store: &ModelStore) -> Self {
        let KeptJob { job: StoredJob { mut record, model, key, workers, starts }, progress, file_bytes } = kept;
        if record.has_ended() {
            return Self { record, key, workers, starts, file_bytes, waiting: None };
        }
        let reached = progress.as_ref().map_or(0, |progress| progress.steps);
        // What was planned behind the step that it goes on from will not have been.
        record.moves.retain(|to| to.step <= reached);
        let starts = starts.again(reached);
        if starts.count > STARTS_LIMIT {
            let waiting = Some(Err(JobFailed::NeverAgain { starts: STARTS_LIMIT }));
            return Self { record, key, workers, starts, file_bytes, waiting };
        }
        let is_same_model = model == store.fingerprint();
        if progress.is_some() && !is_same_model {
            record.warnings.push("the coordinator was started with another model, so it began again".to_owned());
        }
        let checked = CheckedJob::new(store, record.request.clone().into());
        let go_on = |checked| (Box::new(checked), progress.filter(|_| is_same_model));
        let waiting = checked.map(go_on).map_err(JobFailed::Store);
        Self { record, key, workers, starts, file_bytes, waiting: Some(waiting) }
    }
}

impl QueueState {
    /// Takes up what an earlier life left.
    pub(super) fn restore(&mut self, myself: &ActorRef<QueueMessage>, restored: Vec<RestoredJob>) {
        for RestoredJob { record, key, workers, starts, file_bytes, waiting } in restored {
            let job = record.id;
            let Some(waiting) = waiting else {
                self.jobs.insert(job, JobEntry::restored(record, key, None));
                let forgotten = self.retention.push(job, file_bytes);
                self.forget(forgotten);
                continue;
            };
            self.returning.extend(workers);
            match waiting {
                Ok((checked, progress)) => {
                    tracing::info!(%job, ?progress, "a job of before");
                    let mut entry = JobEntry::restored(record, key, Some(checked));
                    entry.record.progress.0 = progress.as_ref().map_or(0, |progress| progress.steps);
                    entry.saved = progress;
                    entry.starts = starts;
                    self.insert_with_deadline(myself, entry);
                    self.waiting.push_back(job);
                    let phase = self.waiting_phase();
                    self.change(job, |record| phase.clone_into(&mut record.phase));
                }
                Err(failed) => {
                    self.jobs.insert(job, JobEntry::restored(record, key, None));
                    self.handle_ended(myself, job, Err(failed));
                }
            }
        }
    }

    pub(super) fn submit(
        &mut self,
        myself: &ActorRef<QueueMessage>,
        Submission { checked, key }: Submission,
        reply: RpcReplyPort<Result<JobView, SubmitRefused>>,
    ) {
        let known = self.jobs.iter().find(|(_, entry)| key.is_some() && entry.key == key).map(|(job, _)| *job);
        if let Some(job) = known {
            return self.answer_submission(myself, job, reply);
        }
        if self.waiting.len() >= self.limits.queue_length {
            // Whoever asked may have given up waiting; so below.
            let _ = reply.send(Err(SubmitRefused::Full { length: self.waiting.len() }));
            return;
        }
        let job = self.next;
        self.next = JobId(job.0 + 1);
        let mut entry = JobEntry::new(job, checked);
        self.waiting_phase().clone_into(&mut entry.record.phase);
        entry.key = key;
        self.insert_with_deadline(myself, entry);
        self.waiting.push_back(job);
        self.is_stirred = true;
        self.answer_submission(myself, job, reply);
    }

    /// Takes a job in that is given up if it is not done in time.
    fn insert_with_deadline(&mut self, myself: &ActorRef<QueueMessage>, mut entry: JobEntry) {
        let (job, (within, left)) = (entry.record.id, entry.deadline(self.limits.job_within));
        let myself = myself.clone();
        entry.deadline = Some(OwnedTask::spawn(async move {
            tokio::time::sleep(left).await;
            // A queue that has ended has no jobs.
            let _ = myself.send_message(QueueMessage::Overdue { job, within });
        }));
        self.jobs.insert(job, entry);
    }

    /// Answers when the job is on disk. One that is there already is written once more: so the answer is right even if the
    /// first attempt is still on its way.
    fn answer_submission(
        &self,
        myself: &ActorRef<QueueMessage>,
        job: JobId,
        reply: RpcReplyPort<Result<JobView, SubmitRefused>>,
    ) {
        let Some(entry) = self.jobs.get(&job) else { return };
        let (view, stored) = (entry.view(), self.stored(entry));
        let (Some(writer), Some(stored)) = (&self.writer, stored) else {
            let _ = reply.send(Ok(view));
            return;
        };
        let (myself, is_answered) = (myself.clone(), Arc::clone(&entry.is_answered));
        writer.keep(Change::Updated(stored), move |kept| {
            let answer = kept.map(|()| view).map_err(|error| {
                // One that was answered for before is on disk since then, and goes on.
                if !is_answered.load(Ordering::Relaxed) {
                    // It may have started meanwhile. A queue that has ended forgets it by itself.
                    let _ = myself.send_message(QueueMessage::NotKept { job });
                }
                SubmitRefused::NotKept { reason: error.to_string() }
            });
            is_answered.fetch_or(answer.is_ok(), Ordering::Relaxed);
            let _ = reply.send(answer);
        });
    }

    /// A job is not on disk, and nobody was told that it is here.
    pub(super) fn handle_not_kept(&mut self, myself: &ActorRef<QueueMessage>, job: JobId) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.is_kept = false;
        }
        self.cancel(myself, job);
    }

    /// Notes that a job begins, and gives what its denoiser is to know of other lives of the coordinator.
    pub(super) fn begin_life(&mut self, job: JobId) -> Option<JobLife> {
        let entry = self.jobs.get_mut(&job)?;
        let was_begun = entry.record.times.started.is_some();
        let (progress, is_kept) = (entry.saved.take(), entry.is_kept);
        entry.start();
        entry.announce();
        self.keep_record(job);
        let is_kept = is_kept && self.writer.is_some();
        Some(JobLife { first_epoch: self.first_epoch, was_begun, progress, is_kept })
    }

    /// Writes how far a job is, behind its record.
    pub(super) fn keep_progress(&self, job: JobId, progress: Progress, then: Box<dyn FnOnce() + Send>) {
        match &self.writer {
            // The writer logs what goes wrong, and the next one may succeed.
            Some(writer) => writer.keep(Change::Progressed(job, progress), move |_| then()),
            None => then(),
        }
    }

    /// Writes a job's record as it is now.
    pub(super) fn keep_record(&mut self, job: JobId) {
        let stored = self.jobs.get(&job).and_then(|entry| self.stored(entry));
        if let (Some(writer), Some(stored)) = (&self.writer, stored) {
            // If this is lost the job is found as it was before, and goes on all the same. The writer logs errors.
            writer.keep(Change::Updated(stored), |_| {});
        }
    }

    pub(super) fn handle_ended(&mut self, myself: &ActorRef<QueueMessage>, job: JobId, end: JobEnd) {
        if self.running.remove(&job).is_some() {
            self.pipelines.end(job);
        }
        self.is_stirred = true;
        if self.is_resting && end.is_err() {
            // Its workers were sent away: it goes on when the coordinator is started again.
            return;
        }
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        entry.end(end);
        tracing::info!(%job, state = ?entry.ending.as_ref().map(|record| record.state), "job ended");
        let files = entry.files();
        let stored = self.jobs.get(&job).and_then(|entry| self.stored(entry));
        let (Some(writer), Some(stored)) = (&self.writer, stored) else { return self.announce_end(job, None) };
        let myself = myself.clone();
        writer.keep(Change::Ended(stored, files), move |kept| {
            let error = kept.err().map(|error| error.to_string());
            // The queue ends with the process.
            let _ = myself.send_message(QueueMessage::EndKept { job, error });
        });
    }

    /// Tells everybody that a job ended: its files are on disk, or `error` says why they are in memory alone.
    pub(super) fn announce_end(&mut self, job: JobId, error: Option<String>) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let bytes = entry.files().bytes();
        let is_on_disk = self.writer.is_some() && entry.is_kept && error.is_none();
        entry.announce_end(error, is_on_disk);
        let forgotten = self.retention.push(job, bytes);
        self.forget(forgotten);
    }

    /// Answers with what a job left, from memory or from disk.
    pub(super) fn files(&self, job: JobId, reply: RpcReplyPort<FoundFiles>) {
        let Some(entry) = self.jobs.get(&job).filter(|entry| entry.has_ended()) else {
            let _ = reply.send(Ok(None));
            return;
        };
        let (Some(writer), None) = (&self.writer, &entry.outcome) else {
            let _ = reply.send(Ok(entry.outcome.is_some().then(|| entry.files())));
            return;
        };
        writer.files(job, |found| {
            let _ = reply.send(found);
        });
    }

    /// What is kept of a job; none if it is of a kind that is not.
    fn stored(&self, entry: &JobEntry) -> Option<Box<StoredJob>> {
        let record = entry.ending.as_ref().unwrap_or(&entry.record).clone();
        let workers = if entry.is_running() { self.workers.keys().cloned().collect() } else { Vec::new() };
        let (model, key) = (self.store.fingerprint().to_owned(), entry.key.clone());
        entry.is_kept.then(|| Box::new(StoredJob { record, model, key, workers, starts: entry.starts }))
    }

    fn forget(&mut self, jobs: Vec<JobId>) {
        for job in &jobs {
            self.jobs.remove(job);
        }
        if let (Some(writer), false) = (&self.writer, jobs.is_empty()) {
            writer.keep(Change::Removed(jobs), |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{JobRequest, JobSettings, JobState, JobTimes, Move};
    use crate::model_store::demo_checkpoint;

    fn begun(starts: Starts, model: &ModelStore) -> KeptJob {
        let request =
            JobRequest { prompt: "a".to_owned(), negative_prompt: String::new(), settings: JobSettings::default() };
        let record = JobRecord {
            id: JobId(1),
            request,
            times: JobTimes::default(),
            state: JobState::Running,
            phase: String::new(),
            progress: (0, 50),
            warnings: Vec::new(),
            recoveries: Vec::new(),
            moves: Vec::new(),
            error: None,
            summary: None,
        };
        let model = model.fingerprint().to_owned();
        KeptJob {
            job: StoredJob { record, model, key: None, workers: Vec::new(), starts },
            progress: None,
            file_bytes: 0,
        }
    }

    #[test]
    fn what_was_planned_behind_the_saved_step_is_not_part_of_the_job_any_more() {
        let model = ModelStore::open(&demo_checkpoint().unwrap()).unwrap();
        let mut kept = begun(Starts::default(), &model);
        kept.job.record.moves = [3, 7, 9].map(|step| Move { why: "a leaves".to_owned(), step }).to_vec();
        kept.progress = Some(Progress { epoch: Epoch(1), steps: 7, state: bytes::Bytes::new() });
        let moved: Vec<u32> = RestoredJob::new(kept, &model).record.moves.iter().map(|to| to.step).collect();
        assert_eq!(moved, [3, 7]);
    }

    #[test]
    fn a_job_with_which_the_coordinator_ends_each_time_is_given_up() {
        let model = ModelStore::open(&demo_checkpoint().unwrap()).unwrap();
        let restored = |count| RestoredJob::new(begun(Starts { count, step: 0 }, &model), &model);
        assert!(restored(STARTS_LIMIT - 1).waiting.unwrap().is_ok());
        let given_up = restored(STARTS_LIMIT).waiting.unwrap().err().unwrap().to_error();
        assert!(given_up.message.contains("100 times") && given_up.hint.contains("log"), "{given_up:?}");
    }
}
