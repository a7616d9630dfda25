//! The graph of each kind of layer.

use super::{resnet, time_embedding, transformer};
use crate::families::{ConvOp, LayerOp};
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder, Slot};

/// Builds what a layer computes, at its module path, from the shapes of its operands.
pub(super) fn layer_graph(op: &LayerOp, path: &str, operands: &[Extent]) -> Graph {
    let mut graph = GraphBuilder::new(operands);
    let first = graph.input(0);
    let output = match op {
        LayerOp::AddedEmbedding(op) => time_embedding::build_added(op, &mut graph, path),
        LayerOp::TimeEmbedding(op) => time_embedding::build(op, &mut graph, path),
        LayerOp::Conv2d(op) => convolution(op, &mut graph, path, first),
        LayerOp::CrossAttentionContext(op) => {
            let each = Convolution::linear(op.inner_width() as usize).without_bias();
            graph.convolutions(&op.context_paths(path), &[first], each)
        }
        LayerOp::Resnet(op) => resnet::build(op, &mut graph, path),
        LayerOp::Transformer2d(op) => transformer::build(op, &mut graph, path),
        LayerOp::Downsample { channels } => {
            let halving = Convolution { stride: 2, ..Convolution::same3(*channels as usize) };
            graph.convolution(&format!("{path}.conv"), &[first], halving)
        }
        LayerOp::Upsample(op) => {
            let size = [op.height as usize, op.width as usize];
            let doubling = Convolution { upsampled: Some(size), ..Convolution::same3(op.channels as usize) };
            graph.convolution(&format!("{path}.conv"), &[first], doubling)
        }
        LayerOp::GroupNorm(op) => {
            let norm = (op.groups as usize, op.epsilon as f32);
            graph.group_norm(path, &[first], norm, Activation::None)
        }
        LayerOp::SiluConv2d(op) => {
            let activated = graph.activate(path, first, Activation::Silu);
            convolution(op, &mut graph, path, activated)
        }
    };
    graph.finish(&[output])
}

fn convolution(op: &ConvOp, graph: &mut GraphBuilder, path: &str, source: Slot) -> Slot {
    graph.convolution(path, &[source], Convolution::square(op.out_channels as usize, op.kernel as usize))
}
