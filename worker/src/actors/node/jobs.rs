//! The jobs that this worker has a part in, from assignment to release.
//!
//! ```text
//!   Assign ──► Checking ──► Collecting ──► Loading ──► Running ──► Finished ──► released
//!                 └────────────┴─────────────┴──── failure ─┴──► dropped, and the coordinator told why
//!   Preload ─► Checking ──► Collecting ──► Loading ──► Loaded, until the job's next assignment finds its components there
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use asyncdiff_common::wire::{RankReport, ToCoordinator, WorkerFailure, WorkerReply};
use asyncdiff_model::component::Component as LoadedComponent;
use asyncdiff_plan::{ComponentId, Epoch, JobId, Rank};
use asyncdiff_transport::WorkerName;
use ractor::{ActorProcessingErr, ActorRef};

use super::{NodeMessage, NodeState};
use crate::actors::component::{ComponentFailed, ComponentMessage};
use crate::assignment::CheckedAssignment;
use crate::device::{JobOutcome, JobStart, JobStatistics, Outlet, Outlets};
use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::system;

/// A job's state at the Node.
pub(super) struct NodeJob {
    pub(super) epoch: Epoch,
    /// The request that assigned it, until it is answered.
    pub(super) request: Option<u64>,
    pub(super) phase: Phase,
    pub(super) checked: Option<Arc<CheckedAssignment>>,
    pub(super) actors: HashMap<ComponentId, ActorRef<ComponentMessage>>,
    pub(super) loaded: BTreeMap<ComponentId, Arc<LoadedComponent>>,
    /// Checks or collects.
    pub(super) task: Option<OwnedTask>,
    /// Ends an assignment that takes too long.
    pub(super) deadline: Option<OwnedTask>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Checking,
    Collecting,
    /// Of a preload: its components wait for the assignment.
    Loaded,
    Loading,
    Running,
    Finished,
}

/// Which way hidden states go over a link, as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Receives,
    Sends,
}

impl NodeJob {
    /// Whether the job cannot go on without a peer's link.
    pub(super) fn needs(&self, peer: &WorkerName, direction: Direction) -> bool {
        let Some(checked) = self.checked.as_ref().filter(|_| self.phase != Phase::Finished) else { return false };
        let plan = &checked.assignment.plan;
        let is_peer = |rank: &Rank| checked.peers.get(rank) == Some(peer);
        match direction {
            Direction::Receives => plan.receives.iter().any(|transfer| is_peer(&transfer.from)),
            Direction::Sends => plan.sends.iter().any(|transfer| is_peer(&transfer.to)),
        }
    }

    fn resident_bytes(&self) -> u64 {
        self.loaded.values().map(|component| component.resident_bytes()).sum()
    }
}

impl NodeState {
    /// The job or the preload that a message is about, if it is still there.
    pub(super) fn job(&mut self, job: JobId, epoch: Epoch) -> Option<&mut NodeJob> {
        let both = [self.jobs.get_mut(&job), self.preloads.get_mut(&job)];
        both.into_iter().flatten().find(|job| job.epoch == epoch)
    }

    pub(super) fn handle_loaded(
        &mut self,
        job: JobId,
        epoch: Epoch,
        component: ComponentId,
        loaded: Arc<LoadedComponent>,
    ) {
        let Some(entry) = self.job(job, epoch) else { return };
        entry.loaded.insert(component, Arc::clone(&loaded));
        let parts = entry.checked.iter().flat_map(|checked| &checked.parts);
        let key = parts.filter(|part| part.component == component).map(|part| part.key.clone()).next();
        if let Some(key) = key.filter(|key| self.loaded.iter().all(|(known, _)| known != key)) {
            self.loaded.push((key, loaded));
        }
        self.finish_preload(job, epoch);
        self.start_if_ready(job);
    }

    /// Answers a preload whose components are loaded. Their actors have done what they are for: the assignment starts others.
    pub(super) fn finish_preload(&mut self, id: JobId, epoch: Epoch) {
        let is_it = |job: &&mut NodeJob| job.epoch == epoch && job.phase == Phase::Loading;
        let Some(job) = self.preloads.get_mut(&id).filter(is_it) else { return };
        if job.checked.as_ref().is_none_or(|checked| job.loaded.len() < checked.parts.len()) {
            return;
        }
        (job.phase, job.deadline) = (Phase::Loaded, None);
        let resident_bytes = job.resident_bytes();
        let (request, actors) = (job.request.take(), std::mem::take(&mut job.actors));
        for actor in actors.into_values() {
            self.components.remove(&actor.get_id());
            actor.stop(None);
        }
        if let (Some(request), Some(session)) = (request, &self.session) {
            session.reply(request, Ok(WorkerReply::Assigned { resident_bytes }));
        }
    }

    /// Starts a job whose components are loaded and whose peers are connected, and answers its assignment.
    pub(super) fn start_if_ready(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id).filter(|job| job.phase == Phase::Loading) else { return };
        let Some(checked) = job.checked.clone() else { return };
        if job.loaded.len() < checked.parts.len() {
            return;
        }
        let (Some(session), Some(peers)) = (self.session.clone(), self.ways_out(&checked)) else { return };
        let assignment = &checked.assignment;
        let (epoch, node) = (assignment.epoch, self.myself.clone());
        let start = JobStart {
            job: id,
            epoch,
            rows: assignment.rows,
            program: Arc::clone(&checked.program.program),
            plan: assignment.plan.clone(),
            timesteps: assignment.timesteps.clone(),
            components: job.loaded.clone(),
            outlets: Outlets {
                job: id,
                epoch,
                coordinator: session.link.clone(),
                peers,
                soundness: self.device.nccl().soundness(),
            },
            trace: assignment.trace,
            report: Box::new(move |outcome| {
                // Fails only when the worker is stopping.
                drop(node.cast(NodeMessage::JobEnded { job: id, epoch, outcome }));
            }),
        };
        if let Err(failure) = self.device.start_job(start) {
            return self.fail_job(id, epoch, failure);
        }
        let Some(job) = self.jobs.get_mut(&id) else { return };
        (job.phase, job.deadline) = (Phase::Running, None);
        let resident_bytes = job.resident_bytes();
        tracing::info!(job = %id, resident_bytes, components = job.loaded.len(), "assigned");
        if let Some(request) = job.request.take() {
            session.reply(request, Ok(WorkerReply::Assigned { resident_bytes }));
        }
    }

    pub(super) fn handle_job_ended(&mut self, id: JobId, epoch: Epoch, outcome: JobOutcome) {
        let Some(job) = self.job(id, epoch) else { return };
        match outcome {
            JobOutcome::Finished => job.phase = Phase::Finished,
            JobOutcome::Failed { component, failure } => {
                // A component's failure goes through its actor, whose end is the job's by supervision.
                let actor = component.and_then(|component| job.actors.get(&component));
                let told = actor.is_some_and(|actor| actor.cast(ComponentMessage::Failed(failure.clone())).is_ok());
                if !told {
                    self.fail_job(id, epoch, failure);
                }
            }
        }
    }

    pub(super) fn handle_component_failed(&mut self, id: JobId, epoch: Epoch, error: ActorProcessingErr) {
        let failure = match error.downcast::<ComponentFailed>() {
            Ok(failed) => failed.0,
            Err(error) => WorkerFailure::Panicked { message: error.to_string() },
        };
        if self.job(id, epoch).is_some() {
            self.fail_job(id, epoch, failure);
        }
    }

    /// Drops a job that cannot go on, or a preload, and says why: as the answer to its request, or by itself.
    pub(super) fn fail_job(&mut self, id: JobId, epoch: Epoch, failure: WorkerFailure) {
        let is_preload = self.preloads.get(&id).is_some_and(|preload| preload.epoch == epoch);
        let dropped = if is_preload { self.drop_preload(id) } else { self.drop_job(id) };
        let Some(job) = dropped else { return };
        match (job.request, &self.session) {
            (Some(request), Some(session)) => session.reply(request, Err(failure)),
            (None, _) => {
                tracing::warn!(job = %id, %failure, "a job failed");
                self.send(ToCoordinator::JobFailed { job: id, epoch: job.epoch, failure });
            }
            (Some(_), None) => {}
        }
    }

    /// Forgets a job's runs and stops what works for them; what is loaded stays, and so does a decoder that waits for the job's latents: another
    /// epoch may make them.
    pub(super) fn drop_job(&mut self, id: JobId) -> Option<NodeJob> {
        let job = self.jobs.remove(&id)?;
        self.intake.stop_job(id);
        for actor in job.actors.values() {
            self.components.remove(&actor.get_id());
            actor.stop(None);
        }
        if matches!(job.phase, Phase::Running | Phase::Finished) {
            let (device, epoch) = (self.device.clone(), job.epoch);
            self.chores.spawn(async move {
                // How it went interests nobody any more.
                drop(device.release(id, epoch).await);
            });
        }
        Some(job)
    }

    /// Forgets what was loaded ahead.
    pub(super) fn drop_preload(&mut self, id: JobId) -> Option<NodeJob> {
        let preload = self.preloads.remove(&id)?;
        for actor in preload.actors.values() {
            self.components.remove(&actor.get_id());
            actor.stop(None);
        }
        Some(preload)
    }

    /// Forgets a job on request and reports how it went.
    pub(super) fn release_job(&mut self, request: u64, id: JobId) {
        let Some(session) = self.session.clone() else { return };
        self.end_requests_of(id);
        if let Some(request) = self.drop_preload(id).and_then(|preload| preload.request) {
            self.reply_released(request);
        }
        let job = self.jobs.remove(&id);
        self.intake.end_job(id);
        for actor in job.iter().flat_map(|job| job.actors.values()) {
            self.components.remove(&actor.get_id());
            actor.stop(None);
        }
        let resident_bytes = job.as_ref().map(NodeJob::resident_bytes).unwrap_or_default();
        let (device, epoch) = (self.device.clone(), job.as_ref().map(|job| job.epoch).unwrap_or_default());
        self.chores.spawn(async move {
            // The device forgets the job between two layers; a job that failed it has forgotten already.
            let statistics = device.release(id, epoch).await.unwrap_or_default();
            let gpu_bytes = device.kernels().most_gpu_bytes().unwrap_or_default();
            let report = Box::new(RankReport { gpu_bytes, ..report(statistics, resident_bytes) });
            session.reply(request, Ok(WorkerReply::Released { report }));
        });
        if let Some(request) = job.and_then(|job| job.request) {
            self.reply_released(request);
        }
    }

    pub(super) fn reply_released(&self, request: u64) {
        if let Some(session) = &self.session {
            let reason = "the job was released before this was done".to_owned();
            session.reply(request, Err(WorkerFailure::Unexpected { reason }));
        }
    }

    /// The ways to all ranks that a job sends to; `None` while one of them is missing.
    fn ways_out(&self, checked: &CheckedAssignment) -> Option<HashMap<Rank, Outlet>> {
        let ranks = checked.assignment.plan.sends.iter().map(|transfer| transfer.to);
        let outlet = |rank| Some((rank, self.peers.outlet(checked.peers.get(&rank)?)?));
        ranks.map(outlet).collect()
    }
}

fn report(statistics: JobStatistics, resident_bytes: u64) -> RankReport {
    RankReport {
        layer_seconds: statistics.layer_seconds,
        busy_seconds: statistics.busy_seconds,
        hidden_state_bytes_sent: statistics.hidden_state_bytes_sent,
        nccl_bytes_sent: statistics.nccl_bytes_sent,
        resident_bytes,
        peak_memory_bytes: system::peak_memory_bytes(),
        gpu_bytes: 0,
        events: statistics.events,
    }
}
