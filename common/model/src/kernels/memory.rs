//! What a graph takes of a device's memory, known before a weight is loaded.

use super::{Backend, Kernels, cpu};
use crate::graph::Graph;

/// Bytes that a prepared graph takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphMemory {
    /// Its parameters at 4 bytes each.
    pub parameter_bytes: u64,
    /// Its parameters as kernels hold them: packed, in their format, transformed.
    pub resident_bytes: u64,
    /// What lies between its inputs and outputs while it runs. Graphs of one device run one after another and share it.
    pub working_bytes: u64,
}

impl Kernels {
    /// What a graph takes once it is prepared by these kernels and runs with so many rows of the batch.
    #[must_use]
    pub fn memory_of(&self, graph: &Graph, rows: usize) -> GraphMemory {
        let parameter_bytes = graph.parameters().iter().map(|parameter| 4 * parameter.elements()).sum();
        let (resident_bytes, working_bytes) = match &self.backend {
            // Every value is a tensor of its own, and freed when the graph has run.
            Backend::Candle(_) => {
                let elements: usize = graph.nodes().iter().map(|node| node.writes.elements()).sum();
                (parameter_bytes, (4 * rows * elements) as u64)
            }
            Backend::Cpu(cpu, format) => cpu::memory_of(graph, (cpu.isa(), *format), rows),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_, format) => super::cuda::memory_of(graph, *format, rows),
            Backend::Stub(_) => (0, 0),
        };
        GraphMemory { parameter_bytes, resident_bytes, working_bytes }
    }
}
