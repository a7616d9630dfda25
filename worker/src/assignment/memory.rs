//! Whether an assignment fits, decided before a byte of it is asked for.

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_plan::Operand;

use super::CheckedAssignment;

/// What a layer needs besides operands and result, in multiples of them: unfolded convolutions and attention scores are made in blocks, and
/// residual branches hold two or three tensors of the block's size. Less lets jobs in that the operating system then kills.
const WORKING_FACTOR: u64 = 4;

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
    let needed_bytes = parameters.saturating_add(activation_bytes(checked));
    let available_bytes = in_use.limit_bytes.saturating_sub(in_use.resident_bytes);
    if needed_bytes > available_bytes {
        return Err(WorkerFailure::OutOfMemory { needed_bytes, available_bytes });
    }
    Ok(())
}

/// An upper estimate of what runs hold at a time: everything that crosses into or out of this rank for a step, the skip connections between
/// its own layers, and the working memory of its largest layer.
fn activation_bytes(checked: &CheckedAssignment) -> u64 {
    let program = &checked.program.program;
    let value_bytes = |operand: &Operand| match operand {
        Operand::Input(input) => program.inputs[input.index()].value.row_bytes(),
        Operand::Value(value) => program.layer(value.layer()).writes.row_bytes(),
    };
    let layers = || checked.parts.iter().flat_map(|part| &part.layers).map(|layer| program.layer(*layer));
    let written: u64 = layers().map(|layer| layer.writes.row_bytes()).sum();
    let working = layers().map(|layer| layer.writes.row_bytes() + layer.reads.iter().map(value_bytes).sum::<u64>());
    let largest = working.max().unwrap_or_default();
    u64::from(checked.assignment.rows) * (written + WORKING_FACTOR * largest)
}
