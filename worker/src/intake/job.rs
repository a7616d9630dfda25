//! What one job's plan says will come in, and from whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use asyncdiff_common::wire::{Assignment, TensorHeader, TensorName};
use asyncdiff_plan::{
    Encoding, Epoch, InputKind, Instance, JobId, Lane, Program, Rank, StepIndex, Transfer, ValueSpec,
};
use asyncdiff_transport::link::Refusal;
use asyncdiff_transport::{PeerName, WorkerName};

use super::Form;

#[derive(Debug)]
pub(crate) struct JobIntake {
    job: JobId,
    epoch: Epoch,
    rows: u32,
    program: Arc<Program>,
    latents: HashSet<StepIndex>,
    hidden_states: HashMap<Instance, Transfer>,
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
            hidden_states: plan.receives.iter().map(|transfer| (transfer.instance, *transfer)).collect(),
            peers,
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.job
    }

    /// Who sends an instance, and how.
    pub(super) fn transfer(&self, instance: Instance) -> Option<&Transfer> {
        self.hidden_states.get(&instance)
    }

    /// Who sends a hidden state that goes from GPU to GPU.
    pub(super) fn admit_from_gpu(&self, peer: &PeerName, header: &TensorHeader) -> Result<Rank, Refusal> {
        if header.epoch < self.epoch {
            return Err(Refusal::OldEpoch { expected: self.epoch, found: header.epoch });
        }
        let TensorName::HiddenState(instance) = header.name else { return Err(Refusal::Unexpected) };
        let transfer = self.transfer(instance).filter(|transfer| {
            let sender = self.peers.get(&transfer.from);
            sender.is_some_and(|name| *peer == PeerName::Worker(name.clone()))
                && transfer.encoding == Encoding::Full
                && header.epoch == self.epoch
                && header.part.is_none()
        });
        let transfer = transfer.ok_or(Refusal::Unexpected)?;
        self.hidden_state(transfer).check(header)?;
        Ok(transfer.from)
    }

    pub(super) fn admit(&self, peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        if header.epoch < self.epoch {
            return Err(Refusal::OldEpoch { expected: self.epoch, found: header.epoch });
        }
        let form = match (&header.name, peer) {
            (TensorName::Condition(name), PeerName::Coordinator) => {
                self.plain(|kind| matches!(kind, InputKind::Condition(known) if known == name))
            }
            (TensorName::Latents(step), PeerName::Coordinator) if self.latents.contains(step) => {
                self.plain(|kind| *kind == InputKind::Latents)
            }
            (TensorName::HiddenState(instance), PeerName::Worker(name)) => self
                .transfer(*instance)
                .filter(|transfer| self.peers.get(&transfer.from) == Some(name))
                .map(|transfer| self.hidden_state(transfer)),
            _ => None,
        };
        match form {
            // An epoch to come: the coordinator sends nothing of it before this worker has answered its assignment.
            Some(_) if header.epoch != self.epoch => Err(Refusal::Unexpected),
            Some(form) => form.check(header),
            None => Err(Refusal::Unexpected),
        }
    }

    fn plain(&self, wanted: impl Fn(&InputKind) -> bool) -> Option<Form> {
        let input = self.program.inputs.iter().find(|input| wanted(&input.kind))?;
        Some(Form::plain(self.shape(&input.value, Lane::Whole)))
    }

    fn hidden_state(&self, transfer: &Transfer) -> Form {
        let Instance { value, lane, .. } = transfer.instance;
        Form::of(transfer, self.shape(&self.program.layer(value.layer()).writes, lane))
    }

    fn shape(&self, spec: &ValueSpec, lane: Lane) -> Vec<u32> {
        let rows = lane.rows(self.rows as usize).len() as u32;
        std::iter::once(rows).chain(spec.shape.iter().copied()).collect()
    }
}
