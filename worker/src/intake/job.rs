//! What one job's plan says will come in, and from whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use asyncdiff_common::wire::{Assignment, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, InputKind, Instance, JobId, Lane, Program, Rank, StepIndex, ValueSpec};
use asyncdiff_transport::link::Refusal;
use asyncdiff_transport::{PeerName, WorkerName};

use super::check_form;

#[derive(Debug)]
pub(crate) struct JobIntake {
    job: JobId,
    epoch: Epoch,
    rows: u32,
    program: Arc<Program>,
    latents: HashSet<StepIndex>,
    hidden_states: HashMap<Instance, Rank>,
    peers: HashMap<Rank, WorkerName>,
}

impl JobIntake {
    /// What an assignment expects; it was checked against the program.
    pub(crate) fn new(assignment: &Assignment, program: Arc<Program>, peers: HashMap<Rank, WorkerName>) -> Self {
        let plan = &assignment.plan;
        Self {
            job: assignment.job,
            epoch: assignment.epoch,
            rows: assignment.rows,
            program,
            latents: plan.runs.iter().filter_map(|run| run.latents).collect(),
            hidden_states: plan.receives.iter().map(|transfer| (transfer.instance, transfer.from)).collect(),
            peers,
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.job
    }

    /// Who sends an instance.
    pub(super) fn sender(&self, instance: Instance) -> Option<Rank> {
        self.hidden_states.get(&instance).copied()
    }

    pub(super) fn admit(&self, peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        if header.epoch < self.epoch {
            return Err(Refusal::OldEpoch { expected: self.epoch, found: header.epoch });
        }
        let (spec, lane) = match (&header.name, peer) {
            (TensorName::Condition(name), PeerName::Coordinator) => {
                (self.input(|kind| matches!(kind, InputKind::Condition(known) if known == name)), Lane::Whole)
            }
            (TensorName::Latents(step), PeerName::Coordinator) if self.latents.contains(step) => {
                (self.input(|kind| *kind == InputKind::Latents), Lane::Whole)
            }
            (TensorName::HiddenState(instance), PeerName::Worker(name))
                if self.sender(*instance).is_some_and(|rank| self.peers.get(&rank) == Some(name)) =>
            {
                (Some(&self.program.layer(instance.value.layer()).writes), instance.lane)
            }
            _ => (None, Lane::Whole),
        };
        match spec {
            // An epoch to come: the coordinator sends nothing of it before this worker has answered its assignment.
            Some(_) if header.epoch != self.epoch => Err(Refusal::Unexpected),
            Some(spec) => check_form(&self.shape(spec, lane), header),
            None => Err(Refusal::Unexpected),
        }
    }

    fn input(&self, wanted: impl Fn(&InputKind) -> bool) -> Option<&ValueSpec> {
        self.program.inputs.iter().find(|input| wanted(&input.kind)).map(|input| &input.value)
    }

    fn shape(&self, spec: &ValueSpec, lane: Lane) -> Vec<u32> {
        let rows = lane.rows(self.rows as usize).len() as u32;
        std::iter::once(rows).chain(spec.shape.iter().copied()).collect()
    }
}
