//! What the actor does about faults: it stops the old placement and prepares another one of the steps that are left, or ends the job.

use std::time::Duration;

use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_plan::{Epoch, PlacedPlan};
use ractor::ActorRef;
use tokio::time::Instant;

use super::actor::{DenoiserMessage, SuspicionExpired};
use super::candidates::Offer;
use super::prepare::serving;
use super::recovery::{Cure, Stage};
use super::start::Start;
use super::state::{DenoiserState, Phase};
use crate::actors::session::{KnownLink, WorkerHandle};
use crate::failure::JobFailed;

impl DenoiserState {
    /// Goes on after a fault, from the step that the job has come to, or ends it.
    pub(super) fn meet(&mut self, myself: &ActorRef<DenoiserMessage>, fault: JobFailed) {
        let is_preparing = matches!(self.phase, Phase::Preparing { .. });
        if !is_preparing && !matches!(self.phase, Phase::Denoising { .. }) {
            return self.end(myself, Err(fault));
        }
        let culprit = fault.worker().and_then(|name| self.worker_of_placement(name));
        let session = culprit.as_ref().map(WorkerHandle::session_id);
        if let Some(worker) = &culprit {
            self.avoid_link(worker, &fault);
        }
        let cure = self.recoveries.judge(&fault, session, self.stage());
        match (cure, &culprit) {
            (Cure::None, _) => return self.end(myself, Err(fault)),
            (Cure::Again, Some(worker)) => {
                self.lost.insert(worker.session_id());
                self.drop_decoder_of(worker.session_id());
            }
            (Cure::More, _) => self.want_more(),
            (Cure::Aside, _) => self.drop_excluded_decoder(),
            (Cure::Without, _) => {
                self.drop_excluded_decoder();
                // Who joins later might do better, but nothing says that anybody will.
                if !self.candidates().are_there() && !self.is_crowded() {
                    return self.end(myself, Err(fault));
                }
            }
            (Cure::Again, None) | (Cure::AnotherPath, _) => {}
        }
        let start = match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Denoising { denoising, .. } => Start::Interrupted(denoising),
            Phase::Preparing { start, .. } => start,
            other => return self.phase = other,
        };
        let step = start.step();
        tracing::warn!(%fault, step = step.0, ?cure, "going on after a fault");
        self.recoveries.begin(&fault, step.0, Instant::now());
        let told = format!("{}; going on from step {}", fault.to_error().message, step.0);
        self.reporter.warnings(vec![told]);
        self.prepare(myself, start, None);
    }

    /// The same, but a worker that cannot reach another one is often the first to notice that the other is lost: it is found out first whether it
    /// is, so that the job goes on without the one that is lost and with the one that noticed.
    pub(super) fn meet_or_suspect(&mut self, myself: &ActorRef<DenoiserMessage>, fault: JobFailed) {
        match &fault {
            JobFailed::WorkerFailed { failure: WorkerFailure::PeerFailed { peer, .. }, .. } => {
                let peer = self.worker_of_placement(peer);
                self.suspect(myself, peer, fault);
            }
            _ => self.meet(myself, fault),
        }
    }

    pub(super) fn handle_worker_failed(
        &mut self,
        myself: &ActorRef<DenoiserMessage>,
        worker: WorkerHandle,
        epoch: Epoch,
        failure: WorkerFailure,
    ) {
        if epoch != self.epoch {
            tracing::debug!(worker = worker.name(), %epoch, %failure, "a failure of an older placement");
            return;
        }
        self.meet_or_suspect(myself, JobFailed::WorkerFailed { worker: worker.name().to_owned(), failure });
    }

    /// Waits until the peer of somebody's failed link is heard, or would have been found to be lost.
    fn suspect(&mut self, myself: &ActorRef<DenoiserMessage>, peer: Option<WorkerHandle>, fault: JobFailed) {
        if self.suspicion.is_some() {
            return;
        }
        let (denoiser, wait, epoch) = (myself.clone(), self.suspicion_lasts(), self.epoch);
        self.suspicion = Some(OwnedTask::spawn(async move {
            let heard = async {
                match peer {
                    Some(peer) => peer.heard_again().await,
                    None => std::future::pending().await,
                }
            };
            // Heard or not: if it is lost, that is told sooner than this.
            let _ = tokio::time::timeout(wait, heard).await;
            let suspicion = SuspicionExpired { epoch, fault };
            // A denoiser that has ended knows the cause.
            let _ = denoiser.send_message(DenoiserMessage::SuspicionExpired(suspicion));
        }));
    }

    /// Nobody was lost: it is the link between the two that does not carry.
    pub(super) fn handle_suspicion(&mut self, myself: &ActorRef<DenoiserMessage>, suspicion: SuspicionExpired) {
        let SuspicionExpired { epoch, fault } = suspicion;
        if epoch == self.epoch {
            self.meet(myself, fault);
        }
    }

    pub(super) fn handle_worker_lost(
        &mut self,
        myself: &ActorRef<DenoiserMessage>,
        worker: &WorkerHandle,
        reason: String,
    ) {
        // It may be told twice, by the session and by Membership.
        if !self.lost.insert(worker.session_id()) {
            return;
        }
        self.drop_decoder_of(worker.session_id());
        match &self.phase {
            Phase::Denoising { .. } => {
                self.denoise(myself, |denoising| denoising.handle_worker_lost(worker.session_id(), reason));
            }
            // Its door is open, so the placement that is being prepared counts on it.
            Phase::Preparing { .. } => {
                self.meet(myself, JobFailed::WorkerLost { worker: worker.name().to_owned(), reason });
            }
            // All steps are taken. If it was to decode, its promise of pixels fails; else it is not needed any more.
            Phase::AwaitingDecoder { .. } | Phase::Ended | Phase::Finishing { .. } | Phase::New(_) => {}
        }
    }

    /// The news that a worker was replaced may be here before the news of who is in the cluster.
    pub(super) fn handle_successor(&mut self, successor: Option<WorkerHandle>) {
        let Some(successor) = successor else { return };
        self.meet_workers(std::slice::from_ref(&successor));
        self.offer.send_modify(|Offer { workers, .. }| {
            workers.retain(|worker| worker.name() != successor.name());
            workers.push(successor);
            workers.sort_by(|one, other| one.name().cmp(other.name()));
        });
    }

    /// Whoever had a part in an older placement and has none now is to forget it; but not the decoder.
    pub(super) fn release_others(&self, placed: &PlacedPlan, ranks: &[WorkerHandle]) {
        let keep = |worker: &WorkerHandle| {
            let session = worker.session_id();
            serving(placed, ranks).any(|(_, rank)| rank.session_id() == session)
                || self.decoder.worker() == Some(session)
        };
        for worker in self.met.iter().filter(|worker| !self.is_first_placement() && !keep(worker)) {
            worker.release(self.reporter.job, self.limits.release_within);
        }
    }

    /// With other jobs beside it, less than what was asked for may be wrong.
    fn stage(&self) -> Stage {
        if self.is_first_placement() && !self.is_crowded() { Stage::Starting } else { Stage::Started }
    }

    /// Somewhat longer than it takes to notice that a worker is lost.
    fn suspicion_lasts(&self) -> Duration {
        self.limits.lost_after + 2 * self.limits.heartbeat_interval
    }

    /// The worker of a name: of the ranks if there are any, for a newer one may have joined under the name meanwhile.
    fn worker_of_placement(&self, name: &str) -> Option<WorkerHandle> {
        let is_it = |worker: &&WorkerHandle| worker.name() == name;
        let rank = match &self.phase {
            Phase::Denoising { denoising, .. } => denoising.ranks().iter().find(is_it).cloned(),
            _ => None,
        };
        rank.or_else(|| self.offer.borrow().workers.iter().find(is_it).cloned())
    }

    /// Plans avoid what is known not to carry, for a while.
    fn avoid_link(&mut self, worker: &WorkerHandle, fault: &JobFailed) {
        let JobFailed::WorkerFailed { failure: WorkerFailure::PeerFailed { peer, reason }, .. } = fault else { return };
        let offer = self.offer.borrow();
        if let Some(peer) = offer.workers.iter().find(|other| other.name() == peer && other.is_connected()) {
            worker.keep_link_to(peer, KnownLink::unusable(reason.clone()));
            peer.keep_link_to(worker, KnownLink::unusable(reason.clone()));
            self.recoveries.note_broken_link([worker.session_id(), peer.session_id()]);
        }
    }
}
