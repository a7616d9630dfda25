//! The graph of each kind of layer.

use super::{resnet, time_embedding, transformer};
use crate::families::{ConvOp, LayerOp};
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder, Slot};

/// Builds what a layer computes, at its module path, from the shapes of its operands.
pub(super) fn layer_graph(op: &LayerOp, path: &str, operands: &[Extent]) -> Graph {
    let mut graph = GraphBuilder::new(operands);
    let module = op.module(path);
    let inputs: Vec<Slot> = (0..operands.len()).map(|index| graph.input(index)).collect();
    let output = match op {
        LayerOp::AddedEmbedding(op) => time_embedding::build_added(op, &mut graph, path),
        LayerOp::TimeEmbedding(op) => time_embedding::build(op, &mut graph, path),
        LayerOp::Conv2d(op) => convolution(op, &mut graph, path, &inputs),
        LayerOp::ResnetIn(op) => {
            let (time, sources) = (inputs[inputs.len() - 1], &inputs[..inputs.len() - 1]);
            resnet::build_in(op, &mut graph, module, (sources, time))
        }
        LayerOp::ResnetOut(op) => resnet::build_out(op, &mut graph, module, (inputs[0], &inputs[1..])),
        LayerOp::ProjectIn(op) => transformer::build_in(op, &mut graph, module),
        LayerOp::SelfAttention(op) => transformer::self_attention(op, &mut graph, module),
        LayerOp::CrossAttentionContext(op) => transformer::context(op, &mut graph, module),
        LayerOp::CrossAttention(op) => transformer::cross_attention(op, &mut graph, module),
        LayerOp::FeedForward(op) => transformer::feed_forward(op, &mut graph, module),
        LayerOp::ProjectOut(op) => transformer::build_out(op, &mut graph, module),
        LayerOp::Downsample { channels } => {
            let halving = Convolution { stride: 2, ..Convolution::same3(*channels as usize) };
            graph.convolution(&format!("{path}.conv"), &inputs, halving)
        }
        LayerOp::Upsample(op) => {
            let size = [op.height as usize, op.width as usize];
            let doubling = Convolution { upsampled: Some(size), ..Convolution::same3(op.channels as usize) };
            graph.convolution(&format!("{path}.conv"), &inputs, doubling)
        }
        LayerOp::GroupNorm(op) => {
            let norm = (op.groups as usize, op.epsilon as f32);
            graph.group_norm(path, &inputs, norm, Activation::None)
        }
        LayerOp::SiluConv2d(op) => {
            let activated = graph.activate(path, inputs[0], Activation::Silu);
            convolution(op, &mut graph, path, &[activated])
        }
    };
    graph.finish(&[output])
}

fn convolution(op: &ConvOp, graph: &mut GraphBuilder, path: &str, sources: &[Slot]) -> Slot {
    graph.convolution(path, sources, Convolution::square(op.out_channels as usize, op.kernel as usize))
}
