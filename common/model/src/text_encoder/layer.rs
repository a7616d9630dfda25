//! One layer of the CLIP text encoder: causal self-attention and an MLP, each behind a layer norm and beside a residual.

use super::ClipTextConfig;
use crate::graph::{AttentionHeads, AttentionMask, Convolution, GraphBuilder, Slot, Store};

/// The layer at `path`, such as `text_model.encoder.layers.0`.
///
/// # Shapes
/// - `hidden`: `[tokens, width]`
/// - returns: the same
pub(super) fn build(config: &ClipTextConfig, graph: &mut GraphBuilder, path: &str, hidden: Slot) -> Slot {
    let ClipTextConfig { width, mlp_width, heads, epsilon, activation, .. } = *config;
    let module = |name: &str| format!("{path}.{name}");
    let normed = graph.layer_norm(&module("layer_norm1"), hidden, epsilon);
    let names = ["q_proj", "k_proj", "v_proj"].map(|name| module(&format!("self_attn.{name}")));
    let all = graph.convolutions(&names, &[normed], Convolution::linear(width));
    let heads = AttentionHeads { count: heads, width: width / heads };
    let operands = [(all, 0), (all, width), (all, 2 * width)];
    let attended = graph.attention(&module("self_attn"), operands, heads, AttentionMask::Causal);
    let out = Convolution::linear(width).plus(hidden);
    let hidden = graph.convolution(&module("self_attn.out_proj"), &[attended], out);
    let normed = graph.layer_norm(&module("layer_norm2"), hidden, epsilon);
    let wide = Convolution::linear(mlp_width).store(Store::Plain(activation));
    let wide = graph.convolution(&module("mlp.fc1"), &[normed], wide);
    graph.convolution(&module("mlp.fc2"), &[wide], Convolution::linear(width).plus(hidden))
}
