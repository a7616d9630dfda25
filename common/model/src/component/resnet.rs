//! A ResNet block: two norms and 3×3 convolutions, the time embedding added between them, and a shortcut around both.

use crate::families::ResnetOp;
use crate::graph::{Activation, Convolution, GraphBuilder, Slot};

/// # Shapes
/// - inputs: hidden state `[height, width, channels]`, where there is one a skip connection of the same size, time embedding `[time_width]`
/// - returns: `[height, width, out_channels]`
pub(super) fn build(op: &ResnetOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let (first, second) = (graph.input(0), graph.input(1));
    let with_skip = graph.extent(first).channels < op.in_channels as usize;
    let (sources, time) = if with_skip { (vec![first, second], graph.input(2)) } else { (vec![first], second) };
    let module = |name: &str| format!("{path}.{name}");
    let norm = (op.groups as usize, op.epsilon as f32);
    let channels = op.out_channels as usize;

    let time = graph.activate(&module("time_emb_proj"), time, Activation::Silu);
    let time = graph.convolution(&module("time_emb_proj"), &[time], Convolution::linear(channels));
    let inner = graph.group_norm(&module("norm1"), &sources, norm, Activation::Silu);
    let conv1 = Convolution { row_bias: Some(time), ..Convolution::same3(channels) };
    let inner = graph.convolution(&module("conv1"), &[inner], conv1);
    let inner = graph.group_norm(&module("norm2"), &[inner], norm, Activation::Silu);
    let shortcut = match *sources {
        [source] if op.in_channels == op.out_channels => source,
        _ if op.in_channels == op.out_channels => graph.concatenate(path, &sources),
        _ => graph.convolution(&module("conv_shortcut"), &sources, Convolution::pointwise(channels)),
    };
    graph.convolution(&module("conv2"), &[inner], Convolution::same3(channels).plus(shortcut))
}
