//! Graphs by lowering and emulator, against the reference.

mod convolutions;
mod operations;

use candle_core::Device;

use super::emulator::product::{decode, encode};
use super::emulator::{Emulator, Order};
use super::fused::{Convolutions, Fixed, Offers};
use super::lower::lower;
use super::pack::{Layout, pack};
use crate::graph::Graph;
use crate::kernels::parity::{self, FORMATS, Input, WEIGHTS};
use crate::kernels::{Format, Kernels};

/// Of operands and of sums of products, by the formula of the weights. The few elements of a small output may all be close to zero.
const DEVIATION: f32 = 0.5;

/// Kernels alone, the libraries as far as they go, and what lies between.
const OFFERS: [Fixed; 3] = [
    Fixed::NOTHING,
    Fixed { attention: false, convolutions: Convolutions::Plain, tiles: true },
    Fixed { attention: true, convolutions: Convolutions::Any, tiles: true },
];

#[test]
fn graphs_are_computed_as_the_reference_does() {
    for (name, graph) in parity::graphs() {
        for rows in [1, 2] {
            check(name, &graph, &vec![rows; graph.inputs().len()]);
        }
    }
}

/// Compares all outputs with the reference's, whose operands have all rows written out where one counts for all here.
fn check(name: &str, graph: &Graph, rows: &[usize]) {
    check_inputs(name, graph, &parity::inputs(graph, rows));
}

fn check_inputs(name: &str, graph: &Graph, inputs: &[Input]) {
    let rows = inputs.iter().map(|(shape, _)| shape[0]).max().unwrap_or(1);
    let written_out: Vec<Input> = inputs
        .iter()
        .map(|(shape, elements)| {
            let shape_of_all = [&[rows], &shape[1..]].concat();
            (shape_of_all, elements.repeat(rows / shape[0]))
        })
        .collect();
    let expected = parity::run(&Kernels::reference(&Device::Cpu), graph, &written_out);
    for (format, tolerance) in FORMATS {
        for offers in OFFERS {
            let Some(found) = run(graph, inputs, format, &offers) else { return };
            let error = parity::difference(&expected, &found, DEVIATION);
            let rows: Vec<usize> = inputs.iter().map(|(shape, _)| shape[0]).collect();
            assert!(error <= tolerance, "{name}, {rows:?} rows, {format:?}, {offers:?}: {error:e}");
        }
    }
}

/// In both orders of threads, which must agree in every bit.
///
/// # Shapes
/// - returns: each output, channels last
fn run(graph: &Graph, inputs: &[Input], format: Format, offers: &dyn Offers) -> Option<Vec<Vec<f32>>> {
    let emulator = Emulator::of(format)?;
    let layout = Layout::new(graph, format);
    let packed = pack(graph, &layout, &WEIGHTS).unwrap();
    let rows: Vec<usize> = inputs.iter().map(|(shape, _)| shape[0]).collect();
    let lowered = lower(graph, &layout, format, &rows, offers);
    assert_eq!((packed.len(), lowered.rows.len()), (layout.bytes(), graph.nodes().len()));
    let encoded: Vec<Vec<u8>> = inputs.iter().zip(&lowered.inputs).map(channels_last).collect();
    let outputs = emulator.run(&lowered, &packed, &encoded, Order::Forwards);
    // Once is enough: in which order threads come is nothing to the format.
    if format == Format::F32 {
        let again = emulator.run(&lowered, &packed, &encoded, Order::Backwards);
        assert!(outputs == again, "bits depend on the order of threads");
    }
    Some(outputs.iter().map(|output| decode(format, output)).collect())
}

/// As a value on a CPU has its elements.
fn channels_last(((shape, elements), &format): (&Input, &Format)) -> Vec<u8> {
    let value = Kernels::for_device(&Device::Cpu).value(shape, elements).unwrap();
    value.with_elements(|elements| encode(format, elements)).unwrap()
}
