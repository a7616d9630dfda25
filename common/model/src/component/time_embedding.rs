//! The timestep as sinusoids (arXiv 1706.03762, section 3.5) through two linear layers.

use crate::families::TimeEmbeddingOp;
use crate::graph::{Activation, Convolution, GraphBuilder, SinusoidsOp, Slot, Store};

/// Period of the slowest sinusoid, in timesteps, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// # Shapes
/// - inputs: the timestep, one number per row
/// - returns: `[width]`
pub(super) fn build(op: &TimeEmbeddingOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let module = |name: &str| format!("{path}.{name}");
    let sinusoids = SinusoidsOp { frequencies: frequencies(op), flip_sin_to_cos: op.flip_sin_to_cos };
    let sinusoids = graph.sinusoids(path, graph.input(0), sinusoids);
    let first = Convolution::linear(op.width as usize).store(Store::Plain(Activation::Silu));
    let hidden = graph.convolution(&module("linear_1"), &[sinusoids], first);
    graph.convolution(&module("linear_2"), &[hidden], Convolution::linear(op.width as usize))
}

/// In f32 throughout, as diffusers does: the last digits of a frequency times a timestep of 1000 matter.
fn frequencies(op: &TimeEmbeddingOp) -> Vec<f32> {
    let count = op.sinusoids / 2;
    let divisor = count as f32 - op.freq_shift;
    (0..count).map(|index| (-MAX_PERIOD.ln() * index as f32 / divisor).exp()).collect()
}
