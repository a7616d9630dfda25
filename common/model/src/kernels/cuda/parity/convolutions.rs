//! Convolutions and linear layers of many shapes.

use proptest::prelude::*;
use proptest::sample::select;

use super::check;
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder, Store};

/// A graph of one convolution, and how many rows its operands have.
#[derive(Clone, Debug)]
struct Case {
    size: [usize; 2],
    sources: Vec<usize>,
    convolution: Convolution,
    row_bias: bool,
    residual: bool,
    rows: usize,
    /// By operand, whether one row counts for all.
    broadcast: [bool; 6],
}

impl Case {
    fn check(&self) {
        let graph = self.graph();
        let mut rows = vec![self.rows; graph.inputs().len()];
        // The first source says how many rows there are.
        for (rows, &broadcast) in rows.iter_mut().zip(&self.broadcast).skip(1) {
            *rows = if broadcast { 1 } else { *rows };
        }
        check(&format!("{self:?}"), &graph, &rows);
    }

    fn graph(&self) -> Graph {
        let [height, width] = self.size;
        let sources = self.sources.iter().map(|&channels| Extent { height, width, channels });
        let mut inputs: Vec<Extent> = sources.collect();
        let row_bias = self.row_bias.then_some(inputs.len());
        inputs.extend(row_bias.map(|_| Extent::vector(self.convolution.out_channels)));
        // What the convolution writes is known to the builder alone.
        let mut probe = GraphBuilder::new(&inputs);
        let slots: Vec<_> = (0..self.sources.len()).map(|input| probe.input(input)).collect();
        let written = probe.convolution("probe", &slots, self.convolution.clone());
        let residual = self.residual.then_some(inputs.len());
        inputs.extend(residual.map(|_| probe.extent(written)));
        let mut graph = GraphBuilder::new(&inputs);
        let slots: Vec<_> = (0..self.sources.len()).map(|input| graph.input(input)).collect();
        let convolution = Convolution {
            row_bias: row_bias.map(|input| graph.input(input)),
            residual: residual.map(|input| graph.input(input)),
            ..self.convolution.clone()
        };
        let output = graph.convolution("convolution", &slots, convolution);
        graph.finish(&[output])
    }
}

fn stores() -> impl Strategy<Value = Store> {
    let activations = [Activation::None, Activation::Gelu, Activation::QuickGelu, Activation::Silu];
    select(activations.map(Store::Plain).into_iter().chain([Store::Geglu]).collect::<Vec<_>>())
}

fn convolutions() -> impl Strategy<Value = Convolution> {
    let window = (select(vec![1usize, 2, 3, 5]), 1usize..=3, [0usize..=2, 0usize..=2]);
    let upsampled = proptest::option::of([5usize..=12, 5usize..=12]);
    (window, upsampled, select(vec![1usize, 3, 8, 20]), stores(), any::<bool>()).prop_map(
        |((kernel, stride, padding), upsampled, channels, store, bias)| {
            // Both halves of what GEGLU reads.
            let out_channels = if store == Store::Geglu { 2 * channels } else { channels };
            let convolution =
                Convolution { stride, padding, upsampled, bias, ..Convolution::square(out_channels, kernel) };
            convolution.store(store)
        },
    )
}

fn cases() -> impl Strategy<Value = Case> {
    let sources = proptest::collection::vec(select(vec![1usize, 3, 4, 8, 16]), 1..=4);
    let options = (any::<bool>(), any::<bool>(), 1usize..=2, any::<[bool; 6]>());
    ([5usize..=9, 5usize..=9], sources, convolutions(), options).prop_map(
        |(size, sources, convolution, (row_bias, residual, rows, broadcast))| Case {
            size,
            sources,
            convolution,
            row_bias,
            residual,
            rows,
            broadcast,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_agree_with_the_reference(case in cases()) {
        case.check();
    }
}

#[test]
fn more_windows_than_scratch_holds_are_taken_in_bands_across_rows() {
    let case = Case {
        size: [64, 48],
        sources: vec![320],
        convolution: Convolution::same3(8),
        row_bias: true,
        residual: true,
        rows: 2,
        broadcast: [false; 6],
    };
    case.check();
}
