//! From an assignment to loaded components: check, make room, collect parameters, start the components' actors.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{Assignment, WeightEntry, WorkerFailure};
use asyncdiff_model::checkpoint::StoredTensor;
use asyncdiff_plan::{Epoch, JobId};
use ractor::{Actor, ActorProcessingErr};

use super::jobs::{NodeJob, Phase};
use super::{NodeMessage, NodeState};
use crate::actors::component::{Component, ComponentArguments, ComponentSource};
use crate::assignment::{CheckedAssignment, MemoryInUse, Part};
use crate::intake::JobIntake;
use crate::weights::{Collector, ReceivedWeights};
use asyncdiff_common::owned_task::OwnedTask;

/// How long an assignment may take, parameters included: the largest UNet over a line of 20 MB/s.
const ASSIGN_DEADLINE: Duration = Duration::from_secs(600);

/// The folder of the denoiser's parameters in a checkpoint.
const DENOISER_FOLDER: &str = "unet";

impl NodeState {
    /// Takes an assignment; a newer epoch of a job replaces the older one.
    pub(super) fn assign(&mut self, request: u64, assignment: Assignment) {
        let (job, epoch) = (assignment.job, assignment.epoch);
        if let Some(known) = self.jobs.get(&job).map(|known| known.epoch).filter(|known| *known >= epoch) {
            let reason = format!("{job} is assigned in {epoch}, and {known} is here already");
            return self.refuse(request, WorkerFailure::Unexpected { reason });
        }
        if let Some(request) = self.drop_job(job).and_then(|older| older.request) {
            self.reply_released(request);
        }
        let entry = self.check(request, assignment);
        self.jobs.insert(job, entry);
    }

    /// Loads the components of an assignment to come. The newest preload of a job replaces an older one.
    pub(super) fn preload(&mut self, request: u64, assignment: Assignment) {
        let job = assignment.job;
        if let Some(request) = self.drop_preload(job).and_then(|older| older.request) {
            self.reply_released(request);
        }
        let entry = self.check(request, assignment);
        self.preloads.insert(job, entry);
    }

    fn check(&self, request: u64, assignment: Assignment) -> NodeJob {
        let (job, epoch) = (assignment.job, assignment.epoch);
        let assignment = Arc::new(assignment);
        let (node, overdue) = (self.myself.clone(), self.myself.clone());
        // Building a program takes milliseconds: not in a handler.
        let kernels = self.device.kernels().clone();
        let check = async move { CheckedAssignment::new(assignment, &kernels).map(Box::new) };
        let task = OwnedTask::spawn_reporting(check, move |result| {
            let result = result.unwrap_or_else(|message| Err(WorkerFailure::Panicked { message }));
            // Fails only when the worker is stopping.
            drop(node.cast(NodeMessage::Checked { job, epoch, result }));
        });
        let deadline = OwnedTask::spawn(async move {
            tokio::time::sleep(ASSIGN_DEADLINE).await;
            drop(overdue.cast(NodeMessage::AssignOverdue { job, epoch }));
        });
        NodeJob {
            epoch,
            request: Some(request),
            phase: Phase::Checking,
            checked: None,
            actors: HashMap::new(),
            loaded: BTreeMap::new(),
            task: Some(task),
            deadline: Some(deadline),
        }
    }

    pub(super) fn handle_assign_overdue(&mut self, job: JobId, epoch: Epoch) {
        if self.job(job, epoch).is_some_and(|job| job.request.is_some()) {
            let seconds = ASSIGN_DEADLINE.as_secs();
            self.fail_job(job, epoch, WorkerFailure::TimedOut { what: "loading components".to_owned(), seconds });
        }
    }

    pub(super) async fn handle_checked(
        &mut self,
        job: JobId,
        epoch: Epoch,
        result: Result<Box<CheckedAssignment>, WorkerFailure>,
    ) {
        if self.job(job, epoch).is_none() {
            return;
        }
        let begun = match result {
            Ok(checked) => self.begin_loading(job, Arc::new(*checked)).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = begun {
            self.fail_job(job, epoch, failure);
        }
    }

    async fn begin_loading(&mut self, job: JobId, checked: Arc<CheckedAssignment>) -> Result<(), WorkerFailure> {
        let epoch = checked.assignment.epoch;
        let is_preload = self.preloads.get(&job).is_some_and(|preload| preload.epoch == epoch);
        if !is_preload {
            // What it has loaded is found by the assignment, or was loaded in vain.
            self.drop_preload(job);
        }
        self.free_unused(&checked);
        checked.check_memory(&self.memory_in_use(&checked))?;
        if !is_preload {
            let peers = checked.peers.clone();
            self.intake.expect_job(JobIntake::new(&checked.assignment, Arc::clone(&checked.program.program), peers));
        }
        for transfer in &checked.assignment.plan.sends {
            let endpoint = checked.assignment.peers.iter().find(|peer| peer.rank == transfer.to);
            let (Some(name), Some(peer)) = (checked.peers.get(&transfer.to), endpoint) else { continue };
            self.ensure_peer(name, &peer.endpoint).await.map_err(actor_failed)?;
        }
        let Some(session) = self.session.clone() else { return Ok(()) };
        let (intake, local, beginning) = (Arc::clone(&self.intake), self.local.clone(), self.incarnation);
        let collector = Collector { intake, session, local, beginning };
        let (wanted, node) = (self.wanted(&checked), self.myself.clone());
        let collect = async move { collector.collect(job, DENOISER_FOLDER, wanted).await };
        let task = OwnedTask::spawn_reporting(collect, move |result| {
            let result = result.unwrap_or_else(|message| Err(WorkerFailure::Panicked { message }));
            // Fails only when the worker is stopping.
            drop(node.cast(NodeMessage::Collected { job, epoch, result }));
        });
        if let Some(entry) = self.job(job, epoch) {
            (entry.phase, entry.checked, entry.task) = (Phase::Collecting, Some(checked), Some(task));
        }
        Ok(())
    }

    pub(super) async fn handle_collected(
        &mut self,
        job: JobId,
        epoch: Epoch,
        result: Result<HashMap<String, StoredTensor>, WorkerFailure>,
    ) {
        let Some(entry) = self.job(job, epoch) else { return };
        let Some(checked) = entry.checked.clone() else { return };
        entry.phase = Phase::Loading;
        let started = match result {
            Ok(tensors) => self.start_components(&checked, tensors).await,
            Err(failure) => Err(failure),
        };
        match started {
            Ok(()) => {
                self.finish_preload(job, epoch);
                self.start_if_ready(job);
            }
            Err(failure) => self.fail_job(job, epoch, failure),
        }
    }

    async fn start_components(
        &mut self,
        checked: &CheckedAssignment,
        tensors: HashMap<String, StoredTensor>,
    ) -> Result<(), WorkerFailure> {
        let mut uses: HashMap<String, u32> = HashMap::new();
        for part in checked.parts.iter().filter(|part| !self.is_loaded(part)) {
            for entry in &part.parameters {
                *uses.entry(entry.name.clone()).or_default() += 1;
            }
        }
        let weights = Arc::new(ReceivedWeights::new(tensors, &uses));
        let (job, epoch) = (checked.assignment.job, checked.assignment.epoch);
        for part in &checked.parts {
            let kept = self.loaded.iter().find(|(key, _)| *key == part.key);
            let source = match kept {
                Some((_, kept)) => ComponentSource::Kept(Arc::clone(kept)),
                None => ComponentSource::Fresh {
                    program: checked.program.clone(),
                    compute: checked.assignment.denoiser.compute,
                    layers: part.layers.clone(),
                    weights: Arc::clone(&weights),
                },
            };
            let (device, node) = (self.device.clone(), self.myself.clone());
            let arguments = ComponentArguments { job, epoch, component: part.component, source, device, node };
            let supervisor = self.myself.get_cell();
            let spawned = Component::spawn_linked(None, Component, arguments, supervisor).await;
            let (actor, _) = spawned.map_err(|error| actor_failed(error.into()))?;
            self.components.insert(actor.get_id(), (job, epoch));
            if let Some(entry) = self.job(job, epoch) {
                entry.actors.insert(part.component, actor);
            }
        }
        Ok(())
    }

    /// Frees components that neither this assignment nor another job uses, before anything new is asked for.
    fn free_unused(&mut self, checked: &CheckedAssignment) {
        let others = self.jobs.values().chain(self.preloads.values()).filter_map(|job| job.checked.as_ref());
        let used: Vec<_> = others.flat_map(|other| &other.parts).chain(&checked.parts).map(|part| &part.key).collect();
        self.loaded.retain(|(key, _)| used.contains(&key));
    }

    fn memory_in_use(&self, checked: &CheckedAssignment) -> MemoryInUse {
        let resident: u64 = self.loaded.iter().map(|(_, component)| component.resident_bytes()).sum();
        // What other jobs are about to load counts too.
        let loading = |job: &&NodeJob| matches!(job.phase, Phase::Collecting | Phase::Loading);
        let coming =
            self.jobs.values().chain(self.preloads.values()).filter(loading).filter_map(|job| job.checked.as_ref());
        let coming = coming.flat_map(|other| &other.parts).filter(|part| !self.is_loaded(part));
        MemoryInUse {
            limit_bytes: self.device.info().memory_bytes,
            resident_bytes: resident + coming.map(|part| part.loaded_bytes).sum::<u64>(),
            is_loaded: checked.parts.iter().map(|part| self.is_loaded(part)).collect(),
        }
    }

    /// The parameters of what is not loaded yet, each once.
    fn wanted(&self, checked: &CheckedAssignment) -> Vec<WeightEntry> {
        if !self.device.kernels().needs_weights() {
            return Vec::new();
        }
        let fresh = checked.parts.iter().filter(|part| !self.is_loaded(part));
        let by_name: BTreeMap<&str, &WeightEntry> =
            fresh.flat_map(|part| &part.parameters).map(|entry| (entry.name.as_str(), entry)).collect();
        by_name.into_values().cloned().collect()
    }

    fn is_loaded(&self, part: &Part) -> bool {
        self.loaded.iter().any(|(key, _)| *key == part.key)
    }
}

fn actor_failed(error: ActorProcessingErr) -> WorkerFailure {
    WorkerFailure::Panicked { message: format!("an actor cannot be started: {error}") }
}
