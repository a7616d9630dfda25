//! Transformer blocks over the pixels of a hidden state, as diffusers' `Transformer2DModel` computes them.

use crate::families::TransformerOp;
use crate::graph::{Activation, AttentionHeads, AttentionMask, Convolution, GraphBuilder, Slot, Store, StoredAs};

/// Norm, projection, blocks, projection, and a residual connection around all of it.
///
/// # Shapes
/// - inputs: hidden state `[height, width, channels]`, keys and values of the cross attentions `[tokens, context_width]`
/// - returns: `[height, width, channels]`
pub(super) fn build(op: &TransformerOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let (hidden, context) = (graph.input(0), graph.input(1));
    let module = |name: &str| format!("{path}.{name}");
    let norm = (op.groups as usize, TransformerOp::GROUP_NORM_EPSILON as f32);
    let normed = graph.group_norm(&module("norm"), &[hidden], norm, Activation::None);
    // Linear layers or 1×1 convolutions: the same products, and the checkpoint's shapes differ by axes of length 1.
    let stored = if op.linear_projection { StoredAs::Linear } else { StoredAs::Convolution };
    let projection = |channels: u32| Convolution { stored, ..Convolution::linear(channels as usize) };
    let mut tokens = graph.convolution(&module("proj_in"), &[normed], projection(op.inner_width()));
    for index in 0..op.blocks {
        let first = index as usize * op.cross_attentions().len();
        let block = Block { op, path: module(&format!("transformer_blocks.{index}")), context, first };
        tokens = block.build(graph, tokens);
    }
    graph.convolution(&module("proj_out"), &[tokens], projection(op.channels).plus(hidden))
}

/// Self-attention, cross attention and feed-forward, each after a layer norm and inside a residual connection.
struct Block<'a> {
    op: &'a TransformerOp,
    path: String,
    /// Keys and values of all cross attentions, side by side.
    context: Slot,
    /// The place of the block's first cross attention among all.
    first: usize,
}

impl Block<'_> {
    /// # Shapes
    /// - `hidden`: `[pixels, inner]`
    /// - returns: `[pixels, inner]`
    fn build(&self, graph: &mut GraphBuilder, hidden: Slot) -> Slot {
        let normed = self.norm(graph, "norm1", hidden);
        let hidden = self.attention(graph, "attn1", normed, hidden);
        let normed = self.norm(graph, "norm2", hidden);
        let hidden = self.attention(graph, "attn2", normed, hidden);
        let normed = self.norm(graph, "norm3", hidden);
        let inner = self.op.inner_width() as usize;
        let wide = inner * TransformerOp::FEED_FORWARD_FACTOR as usize;
        let gated = Convolution::linear(2 * wide).store(Store::Geglu);
        let gated = graph.convolution(&self.module("ff.net.0.proj"), &[normed], gated);
        graph.convolution(&self.module("ff.net.2"), &[gated], Convolution::linear(inner).plus(hidden))
    }

    /// Attention of the hidden state to the encoder hidden states, or to itself, and a residual.
    ///
    /// # Shapes
    /// - `hidden`, `residual`: `[pixels, inner]`
    /// - returns: the same
    fn attention(&self, graph: &mut GraphBuilder, name: &str, hidden: Slot, residual: Slot) -> Slot {
        let inner = self.op.inner_width() as usize;
        let path = |part: &str| self.module(&format!("{name}.{part}"));
        let projection = Convolution::linear(inner).without_bias();
        let place = self.op.cross_attentions().iter().position(|&cross| cross == name);
        let operands = match place {
            None => {
                let all = graph.convolutions(&["to_q", "to_k", "to_v"].map(path), &[hidden], projection);
                [(all, 0), (all, inner), (all, 2 * inner)]
            }
            Some(place) => {
                let query = graph.convolution(&path("to_q"), &[hidden], projection);
                let key = 2 * (self.first + place) * inner;
                [(query, 0), (self.context, key), (self.context, key + inner)]
            }
        };
        let heads = AttentionHeads { count: self.op.heads as usize, width: self.op.head_width as usize };
        let attended = graph.attention(&self.module(name), operands, heads, AttentionMask::None);
        graph.convolution(&path("to_out.0"), &[attended], Convolution::linear(inner).plus(residual))
    }

    fn norm(&self, graph: &mut GraphBuilder, name: &str, source: Slot) -> Slot {
        graph.layer_norm(&self.module(name), source, TransformerOp::LAYER_NORM_EPSILON as f32)
    }

    fn module(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }
}
