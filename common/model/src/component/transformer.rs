//! A transformer over the pixels of a hidden state, layer by layer as diffusers' `Transformer2DModel` computes it.

use crate::families::{AttentionOp, ContextOp, FeedForwardOp, ProjectionOp};
use crate::graph::{Activation, AttentionHeads, AttentionMask, Convolution, GraphBuilder, Slot, Store, StoredAs};

/// # Shapes
/// - input: hidden state `[height, width, in_channels]`
/// - returns: `[height, width, out_channels]`
pub(super) fn build_in(op: &ProjectionOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let norm = (op.groups as usize, ProjectionOp::EPSILON as f32);
    let normed = graph.group_norm(&format!("{path}.norm"), &[graph.input(0)], norm, Activation::None);
    graph.convolution(&format!("{path}.proj_in"), &[normed], projection(op))
}

/// # Shapes
/// - inputs: hidden state `[height, width, in_channels]`, what the transformer reads `[height, width, out_channels]`
/// - returns: `[height, width, out_channels]`
pub(super) fn build_out(op: &ProjectionOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let (hidden, around) = (graph.input(0), graph.input(1));
    graph.convolution(&format!("{path}.proj_out"), &[hidden], projection(op).plus(around))
}

/// Linear layers or 1×1 convolutions: the same products, and the checkpoint's shapes differ by axes of length 1.
fn projection(op: &ProjectionOp) -> Convolution {
    let stored = if op.linear { StoredAs::Linear } else { StoredAs::Convolution };
    Convolution { stored, ..Convolution::linear(op.out_channels as usize) }
}

/// # Shapes
/// - input: hidden state `[height, width, channels]`
/// - returns: the same
pub(super) fn self_attention(op: &AttentionOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let width = op.width() as usize;
    let normed = norm(graph, &format!("{path}.{}", op.norm), graph.input(0));
    let paths = ["to_q", "to_k", "to_v"].map(|name| format!("{path}.{}.{name}", op.module));
    let all = graph.convolutions(&paths, &[normed], Convolution::linear(width).without_bias());
    attention(op, graph, path, [(all, 0), (all, width), (all, 2 * width)])
}

/// # Shapes
/// - inputs: hidden state `[height, width, channels]`, keys and values `[tokens, 2 * channels]`
/// - returns: as the hidden state
pub(super) fn cross_attention(op: &AttentionOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let width = op.width() as usize;
    let (hidden, context) = (graph.input(0), graph.input(1));
    let normed = norm(graph, &format!("{path}.{}", op.norm), hidden);
    let queries = Convolution::linear(width).without_bias();
    let query = graph.convolution(&format!("{path}.{}.to_q", op.module), &[normed], queries);
    attention(op, graph, path, [(query, 0), (context, 0), (context, width)])
}

/// Attention, its projection, and the residual.
fn attention(op: &AttentionOp, graph: &mut GraphBuilder, path: &str, operands: [(Slot, usize); 3]) -> Slot {
    let path = format!("{path}.{}", op.module);
    let heads = AttentionHeads { count: op.heads as usize, width: op.head_width as usize };
    let attended = graph.attention(&path, operands, heads, AttentionMask::None);
    let projection = Convolution::linear(heads.channels()).plus(graph.input(0));
    graph.convolution(&format!("{path}.to_out.0"), &[attended], projection)
}

/// # Shapes
/// - input: encoder hidden states `[tokens, cross_width]`
/// - returns: `[tokens, 2 * width]`
pub(super) fn context(op: &ContextOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let paths = ["to_k", "to_v"].map(|name| format!("{path}.{name}"));
    graph.convolutions(&paths, &[graph.input(0)], Convolution::linear(op.width as usize).without_bias())
}

/// # Shapes
/// - input: hidden state `[height, width, channels]`
/// - returns: the same
pub(super) fn feed_forward(op: &FeedForwardOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let module = |name: &str| format!("{path}.{name}");
    let hidden = graph.input(0);
    let normed = norm(graph, &module("norm3"), hidden);
    let gated = Convolution::linear(2 * op.inner_width() as usize).store(Store::Geglu);
    let gated = graph.convolution(&module("ff.net.0.proj"), &[normed], gated);
    graph.convolution(&module("ff.net.2"), &[gated], Convolution::linear(op.width as usize).plus(hidden))
}

fn norm(graph: &mut GraphBuilder, path: &str, source: Slot) -> Slot {
    graph.layer_norm(path, source, AttentionOp::EPSILON as f32)
}
