//! Who may be given a part, or the decoder: whom the queue offers, without those that the job has found to be of no use.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use ractor::{ActorId, ActorRef};
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::DenoiserMessage;
use super::state::{DenoiserState, Phase};
use crate::actors::job_reporter::JobReporter;
use crate::actors::queue::{WAITING_FOR_BUSY, WAITING_FOR_WORKERS};
use crate::actors::session::WorkerHandle;
use crate::failure::JobFailed;

/// Which workers a job may use.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) workers: Vec<WorkerHandle>,
    /// Whether other jobs have workers, which this one might get when they have ended.
    pub(crate) is_crowded: bool,
}

/// Whether it is crowded, who is offered, and of each whether it is to leave.
pub(crate) type News = (bool, Vec<(ActorId, bool)>);

/// Who may be given a part.
#[derive(Clone)]
pub(super) struct Candidates {
    /// The newest news.
    pub(super) offer: watch::Receiver<Offer>,
    /// Whom the job goes on without.
    pub(super) excluded: HashSet<ActorId>,
    /// Whom it uses if nobody else is there.
    pub(super) aside: HashSet<ActorId>,
    /// Who was found not to be enough.
    pub(super) not_enough: NotEnough,
    /// How long the job waits for somebody.
    pub(super) patience: Duration,
}

/// Sessions that together cannot hold the model: somebody else must be there.
#[derive(Clone, Default)]
pub(super) struct NotEnough {
    sessions: HashSet<ActorId>,
    /// Whether other jobs took workers, or memory of these.
    was_crowded: bool,
}

impl Offer {
    /// What there is to know of it, as it is at this moment: whether a worker is to leave changes in its handle.
    pub(crate) fn news(&self) -> News {
        let state = |worker: &WorkerHandle| (worker.session_id(), worker.is_leaving());
        (self.is_crowded, self.workers.iter().map(state).collect())
    }

    fn is_not_enough(&self) -> NotEnough {
        NotEnough {
            sessions: self.workers.iter().map(WorkerHandle::session_id).collect(),
            was_crowded: self.is_crowded,
        }
    }
}

impl Candidates {
    /// Everybody who can be given a part, as soon as that is somebody.
    pub(super) async fn wait(&mut self, reporter: &JobReporter) -> Result<Vec<WorkerHandle>, JobFailed> {
        let began = Instant::now();
        let found = self.now();
        if !found.is_empty() {
            return Ok(found);
        }
        reporter.short();
        loop {
            let is_crowded = self.offer.borrow().is_crowded;
            reporter.phase(if is_crowded { WAITING_FOR_BUSY } else { WAITING_FOR_WORKERS });
            match tokio::time::timeout(self.patience, self.somebody_or_news(is_crowded)).await {
                Ok(Ok(found)) if found.is_empty() => {}
                Ok(Ok(found)) => return Ok(found),
                // Others' jobs have deadlines of their own, and what they leave comes here first.
                Err(_) if is_crowded => {}
                Ok(Err(_)) | Err(_) => return Err(JobFailed::NoWorkers { waited: began.elapsed() }),
            }
        }
    }

    /// Somebody; or nobody, if other jobs began or ended.
    async fn somebody_or_news(&mut self, was_crowded: bool) -> Result<Vec<WorkerHandle>, watch::error::RecvError> {
        loop {
            // The actor holds the other end for as long as this task lives.
            self.offer.changed().await?;
            let found = self.now();
            if !found.is_empty() || self.offer.borrow().is_crowded != was_crowded {
                return Ok(found);
            }
        }
    }

    /// One of them.
    pub(super) async fn somebody(&mut self, reporter: &JobReporter) -> Result<WorkerHandle, JobFailed> {
        let nobody = || JobFailed::Bug { what: "nobody was found to be enough".to_owned() };
        self.wait(reporter).await?.into_iter().next().ok_or_else(nobody)
    }

    /// Whether there is one now.
    pub(super) fn are_there(&mut self) -> bool {
        !self.now().is_empty()
    }

    /// Those who are there now.
    pub(super) fn now(&mut self) -> Vec<WorkerHandle> {
        let offer = self.offer.borrow_and_update();
        let usable = offer
            .workers
            .iter()
            .filter(|worker| worker.is_connected() && !self.excluded.contains(&worker.session_id()));
        let mut found: Vec<WorkerHandle> = usable.cloned().collect();
        let is_aside = |worker: &WorkerHandle| self.aside.contains(&worker.session_id());
        if !found.iter().all(is_aside) {
            found.retain(|worker| !is_aside(worker));
        }
        // Who is about to leave is used if there is nobody else: it stays for as long.
        if found.iter().any(|worker| !worker.is_leaving()) {
            found.retain(|worker| !worker.is_leaving());
        }
        let NotEnough { sessions, was_crowded } = &self.not_enough;
        let is_new = |worker: &WorkerHandle| !sessions.contains(&worker.session_id());
        let is_enough = found.iter().any(is_new) || (*was_crowded && !offer.is_crowded);
        if is_enough { found } else { Vec::new() }
    }
}

impl DenoiserState {
    /// Who may be given a part, or the decoder.
    pub(super) fn candidates(&self) -> Candidates {
        Candidates {
            offer: self.offer.subscribe(),
            excluded: self.recoveries.excluded().clone(),
            aside: self.recoveries.aside().clone(),
            not_enough: NotEnough::default(),
            patience: self.patience,
        }
    }

    /// Who may be used from now on, and who is about to leave.
    pub(super) fn handle_offer(&mut self, myself: &ActorRef<DenoiserMessage>, offer: Offer) {
        self.meet_workers(&offer.workers);
        self.offer.send_replace(offer);
        self.consider_moving(myself);
    }

    /// Notes whom the job may have touched: they are to forget it in the end.
    pub(super) fn meet_workers(&mut self, workers: &[WorkerHandle]) {
        self.met.retain(|worker| worker.is_connected());
        for worker in workers {
            if self.met.iter().all(|known| known.session_id() != worker.session_id()) {
                self.met.push(worker.clone());
            }
        }
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.offer.borrow().is_crowded
    }

    /// Notes that those who are there are not enough.
    pub(super) fn want_more(&mut self) {
        self.not_enough = self.offer.borrow().is_not_enough();
    }

    /// Tells the queue whom the job uses, and that it has thought of everybody who is offered, but for those who came since it was planned.
    /// `None`: whom it used before.
    pub(super) fn settle(&self, uses: Option<BTreeSet<String>>) {
        let is_over = !matches!(self.phase, Phase::Preparing { .. } | Phase::Denoising { .. });
        let new: Vec<ActorId> = self
            .candidates()
            .now()
            .iter()
            .map(WorkerHandle::session_id)
            .filter(|session| !is_over && !self.planned_with.contains(session))
            .collect();
        let offer = self.offer.borrow();
        // While another placement is made ready, nothing is decided about those who would have a part in it.
        let decided = |worker: &&WorkerHandle| self.moving.is_none() && !new.contains(&worker.session_id());
        let considered = offer.workers.iter().filter(decided);
        self.reporter.settled(considered.map(|worker| worker.name().to_owned()).collect(), uses);
    }

    /// The same with those that it uses now: the ranks with something to run, and the decoder.
    pub(super) fn settle_users(&self) {
        let Phase::Denoising { denoising, .. } = &self.phase else { return };
        let users = denoising.serving().chain(self.decoder.handle());
        self.settle(Some(users.map(|worker| worker.name().to_owned()).collect()));
    }
}
