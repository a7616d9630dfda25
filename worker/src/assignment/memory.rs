//! Whether an assignment fits, decided before a byte of it is asked for.

use std::collections::BTreeSet;

use asyncdiff_common::config::format_bytes;
use asyncdiff_common::wire::{Assignment, WorkerFailure};
use asyncdiff_model::component::layer_memory;
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::Kernels;

use super::{CheckedAssignment, Part};

/// What is taken already.
#[derive(Clone, Debug)]
pub(crate) struct MemoryInUse {
    /// What the worker may use.
    pub(crate) limit_bytes: u64,
    /// Components of other jobs that stay.
    pub(crate) resident_bytes: u64,
    /// By part of the assignment: whether its component is loaded already.
    pub(crate) is_loaded: Vec<bool>,
}

pub(super) fn check(checked: &CheckedAssignment, in_use: &MemoryInUse) -> Result<(), WorkerFailure> {
    let parts = checked.parts.iter().zip(&in_use.is_loaded).filter(|(_, is_loaded)| !**is_loaded);
    let parameters: u64 = parts.map(|(part, _)| part.loaded_bytes).sum();
    let needed_bytes = parameters.saturating_add(checked.activation_bytes);
    let available_bytes = in_use.limit_bytes.saturating_sub(in_use.resident_bytes);
    if needed_bytes > available_bytes {
        return Err(WorkerFailure::OutOfMemory { needed_bytes, available_bytes });
    }
    let text = |bytes: u64| format_bytes(bytes as f64);
    let (weights, activations, available) = (text(parameters), text(checked.activation_bytes), text(available_bytes));
    tracing::info!(job = %checked.assignment.job, weights, activations, available, "its part of a job fits");
    Ok(())
}

/// What runs hold at a time, at most: a run of each part for a step, as much again of the step before, and what the layer that is computed needs.
pub(super) fn activation_bytes(program: &DenoiserProgram, parts: &[Part], rows: u32, kernels: &Kernels) -> u64 {
    let held: u64 = parts.iter().map(|part| program.program.held_row_bytes(&part.layers)).sum();
    let layers = parts.iter().flat_map(|part| program.program.with_shared(&part.layers));
    let working = layers.map(|layer| layer_memory(program, kernels, rows as usize, layer).working_bytes);
    (2 * u64::from(rows) * held).saturating_add(working.max().unwrap_or_default())
}

/// What differences are based on: a version of each value, at the sender and at the receiver.
pub(super) fn register_bytes(program: &DenoiserProgram, assignment: &Assignment) -> u64 {
    let transfers = assignment.plan.sends.iter().chain(&assignment.plan.receives);
    let edges: BTreeSet<_> = transfers
        .filter(|transfer| transfer.delta().is_some())
        .map(|transfer| (transfer.from, transfer.to, transfer.instance.value))
        .collect();
    let row_bytes = edges.iter().map(|(_, _, value)| program.program.layer(value.layer()).writes.row_bytes());
    row_bytes.sum::<u64>().saturating_mul(u64::from(assignment.rows))
}
