//! A graph as launches and products, for so many rows of each operand.

use super::launch::Lowered;
use super::pack::Layout;
use crate::graph::Graph;
use crate::kernels::Format;

/// What carries a graph out.
///
/// # Shapes
/// - `operand_rows`: rows of the batch of each input; one row counts for all
pub(super) fn lower(_graph: &Graph, _packed: &Layout, _format: Format, _operand_rows: &[usize]) -> Lowered {
    Lowered {
        steps: Vec::new(),
        rows: Vec::new(),
        inputs: Vec::new(),
        registers: Vec::new(),
        scratch_bytes: 0,
        outputs: Vec::new(),
    }
}
