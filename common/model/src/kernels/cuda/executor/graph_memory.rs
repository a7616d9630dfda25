//! What a graph takes of a GPU's memory, from the graph alone.

use crate::graph::Graph;
use crate::kernels::Format;
use crate::kernels::cuda::fused::{Convolutions, Fixed};
use crate::kernels::cuda::launch::allocated_bytes;
use crate::kernels::cuda::lower::lower;
use crate::kernels::cuda::pack::{Layout, element_bytes};

/// Bytes of a graph's parameters as they are held, and of registers, scratch and operands in another format while it runs.
pub(in crate::kernels) fn memory_of(graph: &Graph, format: Format, rows: usize) -> (u64, u64) {
    let layout = Layout::new(graph, format);
    let operand_rows = vec![rows; graph.inputs().len()];
    let working_bytes = |convolutions| {
        lower(graph, &layout, format, &operand_rows, &Fixed { convolutions, ..Fixed::NOTHING }).working_bytes()
    };
    // Which of the two it will be is not known without the GPU.
    let working_bytes = working_bytes(Convolutions::None).max(working_bytes(Convolutions::Plain));
    let converted = match format {
        // Some operands were converted for another graph, or made in it; all may come from the host.
        Format::Bf16 | Format::F16 => {
            let bytes = |elements: usize| allocated_bytes(rows * elements * element_bytes(format));
            graph.inputs().iter().map(|input| bytes(input.elements())).sum::<usize>()
        }
        Format::F32 => 0,
    };
    (allocated_bytes(layout.bytes()) as u64, (allocated_bytes(working_bytes) + converted) as u64)
}
