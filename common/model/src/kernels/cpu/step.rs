//! One operation with its kernel.

use super::attention::{Attention, AttentionCall, AttentionSpec, Strided};
use super::group_norm::{GroupNorm, GroupNormSpec};
use super::isa::Isa;
use super::layer_norm::LayerNorm;
use super::product::{self, Call, Convolution, ConvolutionSpec};
use super::{CpuFormat, pointwise, sinusoids};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{
    Activation, AttentionHeads, AttentionMask, AttentionOp, ConvolutionOp, Extent, Graph, GroupNormOp, LayerNormOp,
    Node, Op, Parameter, SinusoidsOp,
};
use crate::kernels::registers::Registers;

/// An operation with its kernel and weights.
pub(super) enum Kernel {
    Activate(Isa, Activation),
    Add,
    Attention(Attention, AttentionOp),
    Concatenate(Vec<usize>),
    Convolution(Box<Convolution>, ConvolutionOp),
    GroupNorm(GroupNorm, usize),
    LayerNorm(LayerNorm),
    Sinusoids(SinusoidsOp),
}

/// The most operands that an operation of a graph reads: two sources, row bias, residual.
pub(super) const OPERANDS_MAX: usize = 4;

/// What a kernel is run on.
pub(super) struct Operands<'a> {
    /// Rows of the batch that are written.
    pub(super) rows: usize,
    /// Each `[rows, height, width, channels]`, in the node's order; what lies behind the last is empty.
    pub(super) reads: [&'a [f32]; OPERANDS_MAX],
    /// Their shapes.
    pub(super) extents: [Extent; OPERANDS_MAX],
    pub(super) scratch: &'a mut [f32],
    pub(super) target: &'a mut [f32],
}

impl Kernel {
    /// Chooses a kernel and gives it its weights.
    pub(super) fn load(
        graph: &Graph,
        node: &Node,
        (isa, format): (Isa, CpuFormat),
        weights: &dyn Weights,
    ) -> Result<Self, ModelError> {
        let extent = |index: usize| graph.extent(node.reads[index]);
        Ok(match &node.op {
            Op::Activate(activation) => Self::Activate(isa, *activation),
            Op::Add => Self::Add,
            Op::Attention(op) => {
                let AttentionHeads { count, width } = op.heads;
                let causal = op.mask == AttentionMask::Causal;
                Self::Attention(Attention::prepare(AttentionSpec { heads: count, head_width: width, causal }, isa), *op)
            }
            Op::Concatenate => Self::Concatenate((0..node.reads.len()).map(|index| extent(index).channels).collect()),
            Op::Convolution(op) => {
                let spec = convolution_spec(op, graph, node);
                let weight = stacked(&op.weights, weights)?;
                let bias = if op.biases.is_empty() { None } else { Some(stacked(&op.biases, weights)?) };
                let prepared = Convolution::prepare(spec, isa, format, &weight, bias.as_deref())?;
                Self::Convolution(Box::new(prepared), op.clone())
            }
            Op::GroupNorm(op) => {
                let [scale, shift] = norm_weights(&op.scale, &op.shift, weights)?;
                Self::GroupNorm(group_norm(op, graph, node, isa, [&scale, &shift]), node.reads.len())
            }
            Op::LayerNorm(LayerNormOp { epsilon, scale, shift }) => {
                let [scale, shift] = norm_weights(scale, shift, weights)?;
                Self::LayerNorm(LayerNorm::prepare(node.writes.channels, *epsilon, isa, &scale, &shift))
            }
            Op::Sinusoids(op) => Self::Sinusoids(op.clone()),
        })
    }

    /// Elements of scratch that a run takes.
    pub(super) fn scratch_floats(&self, rows: usize, extents: &[Extent]) -> usize {
        match self {
            Self::Attention(attention, _) => attention.scratch_floats(rows, extents[0].pixels(), extents[1].pixels()),
            Self::Convolution(convolution, _) => convolution.scratch_floats(rows),
            Self::GroupNorm(norm, _) => norm.scratch_floats(rows),
            Self::Activate(..) | Self::Add | Self::Concatenate(_) | Self::LayerNorm(_) | Self::Sinusoids(_) => 0,
        }
    }

    /// Computes.
    pub(super) fn run(&self, operands: Operands<'_>) {
        let Operands { rows, reads, extents, scratch, target } = operands;
        match self {
            Self::Activate(isa, activation) => pointwise::activate(*isa, *activation, reads[0], target),
            Self::Add => pointwise::add(reads[0], reads[1], target),
            Self::Attention(attention, op) => {
                let strided = |index: usize| Strided {
                    elements: reads[index],
                    offset: op.offsets[index],
                    stride: extents[index].channels,
                };
                attention.run(AttentionCall {
                    rows,
                    queries: extents[0].pixels(),
                    keys: extents[1].pixels(),
                    query: strided(0),
                    key: strided(1),
                    value: strided(2),
                    scratch,
                    output: target,
                });
            }
            Self::Concatenate(channels) => concatenate(channels, &reads, target),
            Self::Convolution(convolution, op) => convolution.run(Call {
                rows,
                sources: &reads[..op.sources],
                row_bias: op.row_bias_index().map(|index| reads[index]),
                residual: op.residual_index().map(|index| reads[index]),
                scratch,
                output: target,
            }),
            Self::GroupNorm(norm, sources) => norm.run(rows, &reads[..*sources], scratch, target),
            Self::LayerNorm(norm) => norm.run(reads[0], target),
            Self::Sinusoids(op) => sinusoids::run(op, reads[0], target),
        }
    }

    /// Bytes of the weights as they are held.
    pub(super) fn resident_bytes(&self, writes: Extent) -> u64 {
        match self {
            Self::Convolution(convolution, _) => convolution.packed_bytes() as u64,
            Self::GroupNorm(..) | Self::LayerNorm(_) => (2 * writes.channels * size_of::<f32>()) as u64,
            Self::Activate(..) | Self::Add | Self::Attention(..) | Self::Concatenate(_) | Self::Sinusoids(_) => 0,
        }
    }
}

/// Bytes of a graph's weights as they are held, and of registers and scratch while it runs.
pub(in crate::kernels) fn memory_of(graph: &Graph, (isa, format): (Isa, CpuFormat), rows: usize) -> (u64, u64) {
    let (mut resident, mut scratch) = (0, 0);
    for node in graph.nodes() {
        let (held, floats) = match &node.op {
            Op::Activate(_) | Op::Add | Op::Concatenate | Op::Sinusoids(_) => (0, 0),
            Op::Attention(op) => {
                let AttentionHeads { count, width } = op.heads;
                let causal = op.mask == AttentionMask::Causal;
                let attention = Attention::prepare(AttentionSpec { heads: count, head_width: width, causal }, isa);
                let [queries, keys] = [0, 1].map(|index| graph.extent(node.reads[index]).pixels());
                (0, attention.scratch_floats(rows, queries, keys))
            }
            Op::Convolution(op) => {
                let spec = convolution_spec(op, graph, node);
                let threads = rayon::current_num_threads();
                (product::packed_bytes(&spec, isa, format), product::scratch_floats(&spec, isa, format, rows, threads))
            }
            Op::GroupNorm(op) => {
                let none = vec![0.0; node.writes.channels];
                let norm = group_norm(op, graph, node, isa, [&none, &none]);
                (2 * size_of::<f32>() * node.writes.channels, norm.scratch_floats(rows))
            }
            Op::LayerNorm(_) => (2 * size_of::<f32>() * node.writes.channels, 0),
        };
        resident += held;
        scratch = scratch.max(floats);
    }
    let registers: usize = Registers::plan(graph).elements.iter().sum();
    (resident as u64, (size_of::<f32>() * (rows * registers + scratch)) as u64)
}

fn group_norm(op: &GroupNormOp, graph: &Graph, node: &Node, isa: Isa, [scale, shift]: [&[f32]; 2]) -> GroupNorm {
    let GroupNormOp { groups, epsilon, activation, .. } = *op;
    let sources = node.reads.iter().map(|&slot| graph.extent(slot).channels).collect();
    let spec = GroupNormSpec { sources, groups, epsilon, activation, pixels: node.writes.pixels() };
    GroupNorm::prepare(spec, isa, scale, shift)
}

/// What the choice of a convolution's kernel depends on.
pub(super) fn convolution_spec(op: &ConvolutionOp, graph: &Graph, node: &Node) -> ConvolutionSpec {
    let extent = |index: usize| graph.extent(node.reads[index]);
    let Extent { height, width, .. } = extent(0);
    ConvolutionSpec {
        sources: (0..op.sources).map(|index| extent(index).channels).collect(),
        out_channels: op.out_channels,
        kernel: op.kernel,
        stride: op.stride,
        padding: op.padding,
        source_size: [height, width],
        size: op.size,
        store: op.store,
    }
}

/// # Shapes
/// - `target`: `[pixels, sum of channels]`
fn concatenate(channels: &[usize], reads: &[&[f32]], target: &mut [f32]) {
    let all: usize = channels.iter().sum();
    let mut first = 0;
    for (&count, read) in channels.iter().zip(reads) {
        for (pixel, source) in target.chunks_exact_mut(all).zip(read.chunks_exact(count)) {
            pixel[first..first + count].copy_from_slice(source);
        }
        first += count;
    }
}

/// The parameters one below the other.
fn stacked(parameters: &[Parameter], weights: &dyn Weights) -> Result<Vec<f32>, ModelError> {
    let mut all = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        let mut values = weights.floats(&parameter.name, &parameter.shape)?;
        if index == 0 && parameters.len() == 1 {
            return Ok(values);
        }
        all.append(&mut values);
    }
    Ok(all)
}

fn norm_weights(scale: &Parameter, shift: &Parameter, weights: &dyn Weights) -> Result<[Vec<f32>; 2], ModelError> {
    Ok([weights.floats(&scale.name, &scale.shape)?, weights.floats(&shift.name, &shift.shape)?])
}
