//! A ResNet block: two norms and 3×3 convolutions, the time embedding added between them, and a shortcut around both.

use crate::families::{ResnetInOp, ResnetOutOp};
use crate::graph::{Activation, Convolution, GraphBuilder, Slot};

/// Norm and convolution, with the time embedding added.
///
/// # Shapes
/// - `sources`: the hidden state and, where there is one, a skip connection, side by side: `[height, width, in_channels]`
/// - `time`: `[time_width]`
/// - returns: `[height, width, out_channels]`
pub(super) fn build_in(
    op: &ResnetInOp,
    graph: &mut GraphBuilder,
    path: &str,
    (sources, time): (&[Slot], Slot),
) -> Slot {
    let module = |name: &str| format!("{path}.{name}");
    let channels = op.out_channels as usize;
    let time = graph.activate(&module("time_emb_proj"), time, Activation::Silu);
    let time = graph.convolution(&module("time_emb_proj"), &[time], Convolution::linear(channels));
    let norm = (op.groups as usize, op.epsilon as f32);
    let normed = graph.group_norm(&module("norm1"), sources, norm, Activation::Silu);
    let conv1 = Convolution { row_bias: Some(time), ..Convolution::same3(channels) };
    graph.convolution(&module("conv1"), &[normed], conv1)
}

/// Norm, convolution, and the shortcut.
///
/// # Shapes
/// - `hidden`: `[height, width, channels]`
/// - `shortcut`: the same, or hidden state and skip connection, which are as wide side by side
/// - returns: `[height, width, channels]`
pub(super) fn build_out(
    op: &ResnetOutOp,
    graph: &mut GraphBuilder,
    path: &str,
    (hidden, shortcut): (Slot, &[Slot]),
) -> Slot {
    let norm = (op.groups as usize, op.epsilon as f32);
    let normed = graph.group_norm(&format!("{path}.norm2"), &[hidden], norm, Activation::Silu);
    let shortcut = match *shortcut {
        [shortcut] => shortcut,
        _ => graph.concatenate(path, shortcut),
    };
    let conv2 = Convolution::same3(op.channels as usize).plus(shortcut);
    graph.convolution(&format!("{path}.conv2"), &[normed], conv2)
}
