//! One node's steps in the making: its operands, its target, and scratch that its steps share.

use super::super::fused::Offers;
use super::super::launch::{Argument, Kernel, Launch, Memory, Place, Step};
use super::super::pack::{Parameters, element_bytes};
use crate::graph::{Activation, Extent, Node, Op};
use crate::kernels::Format;

/// Where regions of scratch begin at a multiple of; more than any load wants.
const SCRATCH_ALIGNMENT: usize = 256;

/// Threads of a warp: a block has a multiple of them.
pub(super) const WARP: usize = 32;

/// The most threads of a block whose threads take the channels of a pixel.
const CHANNEL_THREADS: usize = 256;

/// Bytes of a vector, `WIDE` elements of the sources.
const VECTOR_BYTES: usize = 16;

/// The most operands that a kernel takes side by side.
const CONCATENATED: usize = 4;

/// What a node reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operand {
    pub(super) place: Place,
    pub(super) extent: Extent,
    pub(super) rows: usize,
    pub(super) format: Format,
}

impl Operand {
    /// What one row of the batch is away from the next, in pixels: nothing where one row counts for all.
    pub(super) fn row_pixels(&self) -> usize {
        if self.rows == 1 { 0 } else { self.extent.pixels() }
    }

    /// As kernels are told of its pixels from an element of the first on.
    pub(super) fn strided(&self, first: Place) -> [Argument; 3] {
        [first.into(), self.extent.channels.into(), self.row_pixels().into()]
    }
}

pub(super) struct NodeLowering<'a> {
    pub(super) node: &'a Node,
    /// Rows of the batch that are written.
    pub(super) rows: usize,
    pub(super) format: Format,
    pub(super) parameters: Parameters,
    pub(super) reads: Vec<Operand>,
    pub(super) target: Place,
    steps: Vec<Step>,
    scratch_bytes: usize,
}

impl<'a> NodeLowering<'a> {
    pub(super) fn new(node: &'a Node, rows: usize, format: Format, parameters: Parameters, target: Place) -> Self {
        let (reads, steps) = (Vec::new(), Vec::new());
        Self { node, rows, format, parameters, reads, target, steps, scratch_bytes: 0 }
    }

    pub(super) fn push_operand(&mut self, operand: Operand) {
        let Operand { rows, .. } = operand;
        assert!(rows == 1 || rows == self.rows, "{} has {} rows and reads {rows}", self.node.name, self.rows);
        self.reads.push(operand);
    }

    pub(super) fn lower(&mut self, offers: &dyn Offers) {
        let node = self.node;
        match &node.op {
            Op::Activate(activation) => self.activate(*activation),
            Op::Add => self.add(),
            Op::Attention(op) => {
                if !self.attend_as_one(op, offers) {
                    self.attention(op, offers);
                }
            }
            Op::Concatenate => self.concatenate(),
            Op::Convolution(op) => {
                if !self.convolve_as_one(op, offers) {
                    self.convolution(op);
                }
            }
            Op::GroupNorm(op) => self.group_norm(op),
            Op::LayerNorm(op) => self.layer_norm(op),
            Op::Sinusoids(op) => self.sinusoids(op),
        }
    }

    pub(super) fn scratch_bytes(&self) -> usize {
        self.scratch_bytes
    }

    pub(super) fn into_steps(self) -> impl Iterator<Item = Step> {
        self.steps.into_iter()
    }

    /// Scratch that no other region of this node overlaps.
    pub(super) fn take_scratch(&mut self, bytes: usize) -> Place {
        let offset = self.scratch_bytes.next_multiple_of(SCRATCH_ALIGNMENT);
        self.scratch_bytes = offset + bytes;
        Place { memory: Memory::Scratch, offset }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn launch(
        &mut self,
        kernel: Kernel,
        grid: [usize; 3],
        block: usize,
        arguments: impl IntoIterator<Item = Argument>,
    ) {
        self.launch_with_shared(kernel, grid, (block, 0), arguments);
    }

    /// `block`: its threads, and floats of shared memory.
    pub(super) fn launch_with_shared(
        &mut self,
        kernel: Kernel,
        grid: [usize; 3],
        (block, shared_floats): (usize, usize),
        arguments: impl IntoIterator<Item = Argument>,
    ) {
        let count = |value: usize| int(value).unsigned_abs();
        self.steps.push(Step::Launch(Launch {
            kernel,
            grid: grid.map(count),
            block: count(block),
            shared_bytes: count(shared_floats * size_of::<f32>()),
            arguments: arguments.into_iter().collect(),
        }));
    }

    /// Where an element of what begins at a place lies.
    pub(super) fn element(&self, place: Place, element: usize) -> Place {
        Place { offset: place.offset + element * element_bytes(self.format), ..place }
    }

    /// The arguments of operands side by side.
    pub(super) fn concatenation(&self, operands: &[Operand]) -> Vec<Argument> {
        assert!(operands.len() <= CONCATENATED, "{} reads {} sources", self.node.name, operands.len());
        let mut arguments = Vec::with_capacity(3 * CONCATENATED);
        for operand in operands {
            arguments.extend(operand.strided(operand.place));
        }
        arguments.resize(3 * CONCATENATED, Argument::Int(0));
        for absent in operands.len()..CONCATENATED {
            arguments[3 * absent] = Argument::Null;
        }
        arguments
    }

    /// Whether every operand's and the target's channels are whole vectors.
    pub(super) fn is_wide(&self, operands: &[Operand]) -> bool {
        self.are_whole_vectors(operands) && self.is_whole_vectors(self.node.writes.channels)
    }

    /// Whether every operand's channels are whole vectors.
    pub(super) fn are_whole_vectors(&self, operands: &[Operand]) -> bool {
        operands.iter().all(|operand| self.is_whole_vectors(operand.extent.channels))
    }

    pub(super) fn is_whole_vectors(&self, channels: usize) -> bool {
        (channels * element_bytes(self.format)).is_multiple_of(VECTOR_BYTES)
    }

    /// Threads that take so many channels of a pixel among them.
    pub(super) fn channel_threads(&self, channels: usize, wide: bool) -> usize {
        let elements = if wide { VECTOR_BYTES / element_bytes(self.format) } else { 1 };
        channels.div_ceil(elements).next_multiple_of(WARP).min(CHANNEL_THREADS)
    }
}

impl From<Place> for Argument {
    fn from(place: Place) -> Self {
        Self::Place(place)
    }
}

impl From<Option<Place>> for Argument {
    fn from(place: Option<Place>) -> Self {
        place.map_or(Self::Null, Self::Place)
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::Int(int(value))
    }
}

impl From<bool> for Argument {
    fn from(value: bool) -> Self {
        Self::Int(i32::from(value))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

/// By the numbers of the sources.
impl From<Activation> for Argument {
    fn from(activation: Activation) -> Self {
        Self::Int(match activation {
            Activation::None => 0,
            Activation::Gelu => 1,
            Activation::QuickGelu => 2,
            Activation::Silu => 3,
        })
    }
}

/// As kernels count.
fn int(value: usize) -> i32 {
    i32::try_from(value)
        .expect("pixels of a batch and channels are far fewer than 2^31: configurations and jobs are bounded")
}
