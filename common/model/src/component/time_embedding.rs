//! The timestep, and what is added to it, as sinusoids (arXiv 1706.03762, section 3.5) through two linear layers.

use crate::families::{AddedEmbeddingOp, SinusoidsWidth, TimeEmbeddingOp};
use crate::graph::{Activation, Convolution, GraphBuilder, SinusoidsOp, Slot, Store};

/// Period of the slowest sinusoid, in timesteps, over 2π.
const MAX_PERIOD: f32 = 10_000.0;

/// # Shapes
/// - inputs: the timestep, one number per row; the added embedding `[width]`, where there is one
/// - returns: `[width]`
pub(super) fn build(op: &TimeEmbeddingOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let sinusoids = graph.sinusoids(path, graph.input(0), sinusoids(&op.sinusoids));
    let embedding = perceptron(graph, path, &[sinusoids], op.width);
    if op.added { graph.add(path, [embedding, graph.input(1)]) } else { embedding }
}

/// # Shapes
/// - inputs: the time ids `[numbers]`, the text embeds `[text_width]`
/// - returns: `[width]`
pub(super) fn build_added(op: &AddedEmbeddingOp, graph: &mut GraphBuilder, path: &str) -> Slot {
    let (numbers, text) = (graph.input(0), graph.input(1));
    let sinusoids = graph.sinusoids(path, numbers, sinusoids(&op.sinusoids));
    perceptron(graph, path, &[text, sinusoids], op.width)
}

/// # Shapes
/// - `sources`: vectors, side by side
/// - returns: `[width]`
fn perceptron(graph: &mut GraphBuilder, path: &str, sources: &[Slot], width: u32) -> Slot {
    let module = |name: &str| format!("{path}.{name}");
    let first = Convolution::linear(width as usize).store(Store::Plain(Activation::Silu));
    let hidden = graph.convolution(&module("linear_1"), sources, first);
    graph.convolution(&module("linear_2"), &[hidden], Convolution::linear(width as usize))
}

/// In f32 throughout, as diffusers does: the last digits of a frequency times a timestep of 1000 matter.
fn sinusoids(op: &SinusoidsWidth) -> SinusoidsOp {
    let count = op.width / 2;
    let divisor = count as f32 - op.freq_shift;
    let frequencies = (0..count).map(|index| (-MAX_PERIOD.ln() * index as f32 / divisor).exp()).collect();
    SinusoidsOp { frequencies, flip_sin_to_cos: op.flip_sin_to_cos }
}
