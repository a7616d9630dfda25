//! What a layer takes of a device's memory, known from the program alone.

use asyncdiff_plan::LayerId;

use super::layer_graph::layer_graph;
use super::load::operand_extents;
use crate::families::DenoiserProgram;
use crate::kernels::{GraphMemory, Kernels};

/// What a layer takes when it is loaded and runs with so many rows of the batch.
///
/// # Panics
/// When the layer is of another program.
#[must_use]
pub fn layer_memory(program: &DenoiserProgram, kernels: &Kernels, rows: usize, layer: LayerId) -> GraphMemory {
    let name = &program.program.layer(layer).name;
    kernels.memory_of(&layer_graph(program.op(layer), name, &operand_extents(program, layer)), rows)
}
