//! A graph's kernels in order, and where each reads and writes.

use std::sync::Arc;

use super::memory::Memory;
use super::product::Convolution;
use super::step::{Kernel, OPERANDS_MAX, Operands};
use super::{Cpu, CpuFormat};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{ConvolutionOp, Extent, Graph, Op};
use crate::kernels::floats::Floats;
use crate::kernels::registers::{Place, Registers};
use crate::kernels::{Computed, Value};

/// A graph, ready to run on a CPU.
pub(in crate::kernels) struct Steps {
    cpu: Arc<Cpu>,
    steps: Vec<Step>,
    /// The shape of every slot.
    extents: Vec<Extent>,
    registers: Registers,
    outputs: usize,
}

struct Step {
    kernel: Kernel,
    reads: Vec<usize>,
    writes: usize,
    /// How many of the operands say how many rows there are; the others may have one for all.
    sources: usize,
}

impl Steps {
    pub(in crate::kernels) fn load(
        (cpu, format): (&Arc<Cpu>, CpuFormat),
        graph: &Graph,
        weights: &dyn Weights,
    ) -> Result<Self, ModelError> {
        let mut steps = Vec::with_capacity(graph.nodes().len());
        for (index, node) in graph.nodes().iter().enumerate() {
            let kernel = Kernel::load(graph, node, (cpu.isa, format), weights)?;
            let reads: Vec<usize> = node.reads.iter().map(|slot| slot.index()).collect();
            let sources = match &kernel {
                Kernel::Convolution(_, op) => op.sources,
                _ => reads.len(),
            };
            steps.push(Step { kernel, reads, writes: graph.slot_of(index).index(), sources });
        }
        let slots = graph.inputs().len() + graph.nodes().len();
        let extents = (0..graph.inputs().len()).map(|input| graph.inputs()[input]);
        let extents: Vec<Extent> = extents.chain(graph.nodes().iter().map(|node| node.writes)).collect();
        debug_assert_eq!(extents.len(), slots);
        Ok(Self {
            cpu: Arc::clone(cpu),
            steps,
            extents,
            registers: Registers::plan(graph),
            outputs: graph.outputs().len(),
        })
    }

    /// Runs all steps and hands out each output with its place, rows and elements; `watch` is told of each step. The first output is written
    /// to what is lent, if that has its length.
    ///
    /// # Shapes
    /// - `operands`: shapes checked
    pub(in crate::kernels) fn run(
        &self,
        operands: &[&Value],
        mut lent: Option<Floats>,
        hand_out: &mut dyn FnMut(usize, usize, Arc<Floats>),
        watch: &mut dyn FnMut(Computed),
    ) -> Result<(), ModelError> {
        let memory = &mut *self.cpu.memory();
        let rows = operands.iter().map(|operand| operand.rows()).max().unwrap_or(0);
        let scratch = self.steps.iter().map(|step| step.scratch_floats(self, rows)).max().unwrap_or(0);
        memory.reserve(self.registers.elements.iter().map(|&elements| elements * rows), scratch)?;
        memory.rows.clear();
        memory.rows.resize(self.extents.len(), 0);
        memory.outputs.clear();
        memory.outputs.resize(self.outputs, None);
        for (slot, operand) in operands.iter().enumerate() {
            memory.rows[slot] = operand.rows();
        }
        for (node, step) in self.steps.iter().enumerate() {
            self.run_step(step, operands, &mut lent, memory)?;
            watch(Computed { node, rows: memory.rows[step.writes] });
        }
        for index in 0..self.outputs {
            // Every output is written by a step.
            let Some(floats) = memory.outputs[index].take() else { continue };
            memory.remember_buffer(&floats);
            hand_out(index, memory.rows[self.output_slot(index)], floats);
        }
        Ok(())
    }

    pub(in crate::kernels) fn resident_bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.kernel.resident_bytes(self.extents[step.writes])).sum()
    }

    pub(in crate::kernels) fn kernel_name(&self, node: usize, op: &Op) -> String {
        match (&self.steps[node].kernel, op) {
            (Kernel::Convolution(convolution, _), Op::Convolution(op)) => convolution_name(op, convolution),
            _ => op.kind().to_owned(),
        }
    }

    fn run_step(
        &self,
        step: &Step,
        operands: &[&Value],
        lent: &mut Option<Floats>,
        memory: &mut Memory,
    ) -> Result<(), ModelError> {
        let rows = step.reads[..step.sources].iter().map(|&slot| memory.rows[slot]).max().unwrap_or(0);
        memory.rows[step.writes] = rows;
        let len = rows * self.extents[step.writes].elements();
        let place = self.registers.places[step.writes];
        let mut target = match place {
            Place::Register(register) => Target::Register(memory.registers[register].take()),
            Place::Output(_) | Place::Input(_) => {
                let lent = if place == Place::Output(0) { Floats::claim(lent, len) } else { None };
                Target::Output(match lent {
                    Some(lent) => lent,
                    None => memory.take_buffer(len)?,
                })
            }
        };
        let mut scratch = memory.scratch.take();
        let mut reads: [&[f32]; OPERANDS_MAX] = [&[]; OPERANDS_MAX];
        let mut extents = [Extent::vector(0); OPERANDS_MAX];
        for (index, &slot) in step.reads.iter().enumerate() {
            extents[index] = self.extents[slot];
            let len = memory.rows[slot] * extents[index].elements();
            reads[index] = match self.registers.places[slot] {
                Place::Input(input) => operands[input].elements()?,
                Place::Output(output) => memory.outputs[output].as_deref().map_or(&[][..], |floats| &floats[..len]),
                Place::Register(register) => {
                    memory.registers[register].as_deref().map_or(&[][..], |floats| &floats[..len])
                }
            };
        }
        if let (Some(target), Some(scratch)) = (target.elements(), scratch.as_deref_mut()) {
            step.kernel.run(Operands { rows, reads, extents, scratch, target: &mut target[..len] });
        }
        memory.scratch = scratch;
        match (place, target) {
            (Place::Register(register), Target::Register(floats)) => memory.registers[register] = floats,
            (Place::Output(output), Target::Output(floats)) => memory.outputs[output] = Some(floats),
            _ => {}
        }
        Ok(())
    }

    fn output_slot(&self, index: usize) -> usize {
        let is_it = |place: &Place| *place == Place::Output(index);
        self.registers.places.iter().position(is_it).unwrap_or(0)
    }
}

/// Such as `convolution 3×3 stride 2, direct, bf16`. A linear layer is always direct.
fn convolution_name(op: &ConvolutionOp, convolution: &Convolution) -> String {
    let format = convolution.format().name();
    if op.kernel == 1 {
        return format!("linear, {format}");
    }
    let stride = if op.stride == 1 { String::new() } else { format!(" stride {}", op.stride) };
    format!("convolution {0}×{0}{stride}, {1}, {format}", op.kernel, convolution.algorithm().name())
}

impl Step {
    fn scratch_floats(&self, steps: &Steps, rows: usize) -> usize {
        let mut extents = [Extent::vector(0); OPERANDS_MAX];
        for (extent, &slot) in extents.iter_mut().zip(&self.reads) {
            *extent = steps.extents[slot];
        }
        self.kernel.scratch_floats(rows, &extents)
    }
}

/// What a step writes, taken out of the memory while it does.
enum Target {
    Output(Arc<Floats>),
    Register(Option<Floats>),
}

impl Target {
    /// `None` never: a buffer that was just taken has no other holder, and registers were reserved.
    fn elements(&mut self) -> Option<&mut [f32]> {
        match self {
            Self::Output(floats) => Arc::get_mut(floats).map(|floats| &mut floats[..]),
            Self::Register(floats) => floats.as_deref_mut(),
        }
    }
}
