//! What the queue does about who runs with whom: starts jobs with workers that are free, and tells running ones whom they may use.

use std::collections::BTreeSet;
use std::sync::Arc;

use asyncdiff_plan::JobId;
use ractor::{Actor, ActorRef};

use super::super::denoiser::{Denoiser, DenoiserArguments, DenoiserMessage, News, Offer};
use super::super::job_reporter::JobReporter;
use super::pipelines::Pipelines;
use super::{QueueMessage, QueueState, WAITING_FOR_BUSY, WAITING_FOR_RETURN, WAITING_FOR_WORKERS};
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;

/// A job that runs.
pub(super) struct Running {
    pub(super) denoiser: ActorRef<DenoiserMessage>,
    /// What it was told last.
    told: News,
}

impl QueueState {
    /// Starts the jobs that can start, and shares the workers among those that run.
    pub(super) async fn share_out(&mut self, myself: &ActorRef<QueueMessage>) {
        while !self.is_holding && self.returning.is_empty() {
            let free = self.pipelines.for_another(&self.staying());
            if free.is_empty() || self.waiting.is_empty() {
                break;
            }
            self.start_next(myself, free).await;
        }
        self.pipelines.give(&self.staying());
        self.tell_offers();
        self.tell_waiting();
    }

    /// Changes who runs with whom.
    pub(super) fn rearrange(&mut self, change: impl FnOnce(&mut Pipelines)) {
        change(&mut self.pipelines);
        self.is_stirred = true;
    }

    pub(super) fn handle_joined(&mut self, worker: WorkerHandle) {
        self.returning.remove(worker.name());
        self.rearrange(|pipelines| pipelines.joined(worker.name()));
        self.workers.insert(worker.name().to_owned(), worker);
    }

    async fn start_next(&mut self, myself: &ActorRef<QueueMessage>, free: BTreeSet<String>) {
        let Some(job) = self.waiting.pop_front() else { return };
        let Some(checked) = self.jobs.get_mut(&job).and_then(|entry| entry.checked.take()) else { return };
        let Some(life) = self.begin_life(job) else { return };
        self.pipelines.start(job, free);
        let offer = self.offer(job);
        let told = offer.news();
        let arguments = DenoiserArguments {
            checked,
            reporter: JobReporter { job, queue: myself.clone() },
            offer,
            store: Arc::clone(&self.store),
            limits: self.limits.clone(),
            life,
        };
        match Denoiser::spawn_linked(None, Denoiser, arguments, myself.get_cell()).await {
            Ok((denoiser, _task)) => {
                self.running.insert(job, Running { denoiser, told });
            }
            Err(error) => {
                self.pipelines.end(job);
                self.handle_ended(myself, job, Err(JobFailed::Bug { what: error.to_string() }));
            }
        }
    }

    /// Workers that are there and are to stay. The news of a lost one may be on its way while its job's end is here already.
    fn staying(&self) -> BTreeSet<String> {
        let stays = |worker: &&WorkerHandle| worker.is_connected() && !worker.is_leaving();
        self.workers.values().filter(stays).map(|worker| worker.name().to_owned()).collect()
    }

    /// Whom a job may use, those included who are to leave: they stay for as long as there is nobody else.
    fn offer(&self, job: JobId) -> Offer {
        let names = self.pipelines.offer(job, &self.workers.keys().cloned().collect());
        let workers = names.iter().filter_map(|name| self.workers.get(name)).cloned().collect();
        Offer { workers, is_crowded: self.pipelines.jobs().any(|other| other != job) }
    }

    fn tell_offers(&mut self) {
        let jobs: Vec<JobId> = self.running.keys().copied().collect();
        for job in jobs {
            let offer = self.offer(job);
            let news = offer.news();
            let Some(running) = self.running.get_mut(&job).filter(|running| running.told != news) else { continue };
            running.told = news;
            // One that has ended needs nobody.
            let _ = running.denoiser.send_message(DenoiserMessage::Offered(offer));
        }
    }

    /// Tells those who wait for what.
    fn tell_waiting(&mut self) {
        let phase = self.waiting_phase();
        for job in self.waiting.clone() {
            if self.jobs.get(&job).is_some_and(|entry| entry.record.phase != phase) {
                self.change(job, |record| phase.clone_into(&mut record.phase));
            }
        }
    }

    /// What jobs in the queue wait for.
    pub(super) fn waiting_phase(&self) -> &'static str {
        if !self.returning.is_empty() {
            WAITING_FOR_RETURN
        } else if !self.running.is_empty() {
            WAITING_FOR_BUSY
        } else if self.staying().is_empty() {
            WAITING_FOR_WORKERS
        } else {
            "starting"
        }
    }
}
