//! A graph as launches and products, for so many rows of each operand.
//!
//! ```text
//!   Lowering: registers, rows and places of all slots ──► for each node a NodeLowering: its steps and its scratch
//! ```
//!
//! Operands whose batch has one row count for all rows of a node, whatever the operation.

mod attention;
mod convolution;
mod fused;
mod node;
mod norm;
mod pointwise;
#[cfg(test)]
mod tests;

use super::fused::Offers;
use super::launch::{Lowered, Memory, Place, Step};
use super::pack::{Layout, element_bytes};
use crate::graph::{Graph, Node, Op, Slot};
use crate::kernels::Format;
use crate::kernels::registers::{Place as SlotPlace, Registers};

use node::{NodeLowering, Operand};

/// What carries a graph out.
///
/// `offers` says which operations need no kernels of ours.
///
/// # Shapes
/// - `operand_rows`: rows of the batch of each input; one row counts for all
///
/// # Panics
/// When rows of operands differ and are not one: a bug of the caller.
pub(super) fn lower(
    graph: &Graph,
    packed: &Layout,
    format: Format,
    operand_rows: &[usize],
    offers: &dyn Offers,
) -> Lowered {
    let mut lowering = Lowering::new(graph, packed, format, operand_rows);
    for (index, node) in graph.nodes().iter().enumerate() {
        lowering.lower_node(index, node, offers);
    }
    lowering.finish()
}

struct Lowering<'a> {
    graph: &'a Graph,
    packed: &'a Layout,
    format: Format,
    registers: Registers,
    /// By slot, as far as they are known.
    rows: Vec<usize>,
    inputs: Vec<Format>,
    steps: Vec<(usize, Step)>,
    scratch_bytes: usize,
}

impl<'a> Lowering<'a> {
    fn new(graph: &'a Graph, packed: &'a Layout, format: Format, operand_rows: &[usize]) -> Self {
        assert_eq!(operand_rows.len(), graph.inputs().len(), "operands of a graph");
        Self {
            graph,
            packed,
            format,
            registers: Registers::plan(graph),
            rows: operand_rows.to_vec(),
            inputs: input_formats(graph, format),
            steps: Vec::new(),
            scratch_bytes: 0,
        }
    }

    fn lower_node(&mut self, index: usize, node: &Node, offers: &dyn Offers) {
        // The row bias and the residual of a convolution follow the batch of its sources.
        let deciding = match &node.op {
            Op::Convolution(op) => op.sources,
            _ => node.reads.len(),
        };
        let rows = node.reads[..deciding].iter().map(|slot| self.rows[slot.index()]).max().unwrap_or(0);
        let slot = self.graph.slot_of(index).index();
        let mut lowering = NodeLowering::new(node, rows, self.format, self.packed.of_node(index), self.place(slot));
        for &read in &node.reads {
            lowering.push_operand(self.operand(read));
        }
        self.rows.push(rows);
        if rows > 0 {
            lowering.lower(offers);
        }
        self.scratch_bytes = self.scratch_bytes.max(lowering.scratch_bytes());
        self.steps.extend(lowering.into_steps().map(|step| (index, step)));
    }

    fn operand(&self, slot: Slot) -> Operand {
        let format = self.inputs.get(slot.index()).copied().unwrap_or(self.format);
        let (extent, rows) = (self.graph.extent(slot), self.rows[slot.index()]);
        Operand { place: self.place(slot.index()), extent, rows, format }
    }

    fn place(&self, slot: usize) -> Place {
        let memory = match self.registers.places[slot] {
            SlotPlace::Input(input) => Memory::Input(input),
            SlotPlace::Output(output) => Memory::Output(output),
            SlotPlace::Register(register) => Memory::Register(register),
        };
        Place { memory, offset: 0 }
    }

    fn finish(self) -> Lowered {
        let inputs = self.graph.inputs().len();
        let mut registers = vec![0; self.registers.elements.len()];
        let mut outputs = vec![0; self.graph.outputs().len()];
        for (slot, &place) in self.registers.places.iter().enumerate().skip(inputs) {
            let elements = self.graph.nodes()[slot - inputs].writes.elements();
            let bytes = self.rows[slot] * elements * element_bytes(self.format);
            match place {
                SlotPlace::Input(_) => {}
                SlotPlace::Output(output) => outputs[output] = bytes,
                SlotPlace::Register(register) => registers[register] = registers[register].max(bytes),
            }
        }
        Lowered {
            steps: self.steps,
            rows: self.rows[inputs..].to_vec(),
            inputs: self.inputs,
            registers,
            scratch_bytes: self.scratch_bytes,
            outputs,
        }
    }
}

/// f32 for what sinusoids alone are made of, else the format.
fn input_formats(graph: &Graph, format: Format) -> Vec<Format> {
    let of_input = |input: usize| {
        let mut readers = graph.nodes().iter().filter(|node| node.reads.iter().any(|slot| slot.index() == input));
        let is_sinusoids = |node: &Node| matches!(node.op, Op::Sinusoids(_));
        if readers.next().is_some_and(is_sinusoids) && readers.all(is_sinusoids) { Format::F32 } else { format }
    };
    (0..graph.inputs().len()).map(of_input).collect()
}
