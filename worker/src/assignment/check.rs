//! What an assignment must satisfy. Ids in it index the program, so an id out of range would be a panic later.

use std::collections::{HashMap, HashSet};

use asyncdiff_common::wire::{Assignment, WorkerFailure};
use asyncdiff_plan::{Lane, LayerId, Ownership, Program, Rank, Run, Transfer, ValueId};
use asyncdiff_transport::WorkerName;

/// Rows of a batch that are taken for meant: 64 images with guidance. More is refused by memory long before, or is nonsense.
const ROWS_MAX: u32 = 128;

/// The names of the other ranks.
pub(super) fn peers(assignment: &Assignment) -> Result<HashMap<Rank, WorkerName>, WorkerFailure> {
    let mut peers = HashMap::new();
    for peer in &assignment.peers {
        let name = WorkerName::new(&peer.name).map_err(|error| bad(error.to_string()))?;
        if peer.rank == assignment.plan.rank || peers.insert(peer.rank, name).is_some() {
            return Err(bad(format!("{} is listed among the peers twice, or is this worker", peer.rank)));
        }
    }
    let plan = &assignment.plan;
    let others =
        plan.sends.iter().map(|transfer| transfer.to).chain(plan.receives.iter().map(|transfer| transfer.from));
    match others.into_iter().find(|rank| !peers.contains_key(rank)) {
        Some(rank) => Err(bad(format!("{rank} is sent to or received from and is not among the peers"))),
        None => Ok(peers),
    }
}

/// Compares a plan with the program that it is for.
pub(super) fn plan(assignment: &Assignment, program: &Program) -> Result<(), WorkerFailure> {
    let plan = &assignment.plan;
    if !(1..=ROWS_MAX).contains(&assignment.rows) {
        return Err(bad(format!("{} rows; 1 to {ROWS_MAX} are supported", assignment.rows)));
    }
    let mut components = HashSet::new();
    for (component, owned) in &plan.components {
        if !components.insert(*component) {
            return Err(bad(format!("{component} is assigned twice")));
        }
        if let Some(layer) = owned.iter().find(|layer| !is_owned(program, **layer)) {
            return Err(bad(format!("{component} is to own {layer}, which the denoiser lacks or which nobody owns")));
        }
    }
    for run in &plan.runs {
        if !components.contains(&run.id.component) {
            return Err(bad(format!("a run of {} is planned and the component is not assigned", run.id.component)));
        }
        check_run(assignment, program, run)?;
    }
    let transfers = || plan.sends.iter().chain(&plan.receives);
    match transfers().find(|transfer| !fits(program, plan.rank, transfer) || !transfer.is_sound()) {
        Some(transfer) => Err(bad(format!("{transfer:?} is not this rank's, or of a value that the denoiser lacks"))),
        None => Ok(()),
    }
}

fn check_run(assignment: &Assignment, program: &Program, run: &Run) -> Result<(), WorkerFailure> {
    if run.id.lane != Lane::Whole && !assignment.rows.is_multiple_of(2) {
        return Err(bad(format!("a batch of {} rows has no guidance halves", assignment.rows)));
    }
    if run.timestep.index() >= assignment.timesteps.len() {
        let steps = assignment.timesteps.len();
        return Err(bad(format!("a run needs the timestep of step {} of {steps}", run.timestep)));
    }
    let instances = run.reads.iter().flat_map(|read| read.from.iter().map(|instance| instance.value));
    let values = run.reads.iter().map(|read| read.value).chain(instances);
    match values.into_iter().find(|value| !has_value(program, *value)) {
        Some(value) => Err(bad(format!("a run reads {value}, which the denoiser lacks"))),
        None => Ok(()),
    }
}

fn fits(program: &Program, rank: Rank, transfer: &Transfer) -> bool {
    has_value(program, transfer.instance.value) && (transfer.from == rank) != (transfer.to == rank)
}

fn has_value(program: &Program, value: ValueId) -> bool {
    value.index() < program.layers.len()
}

fn is_owned(program: &Program, layer: LayerId) -> bool {
    program.layers.get(layer.index()).is_some_and(|layer| layer.ownership == Ownership::Owned)
}

pub(super) fn bad(reason: String) -> WorkerFailure {
    WorkerFailure::BadAssignment { reason }
}
