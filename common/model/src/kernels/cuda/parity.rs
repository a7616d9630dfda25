//! Graphs by lowering and emulator, against the reference.

use candle_core::Device;

use super::emulator::product::{decode, encode};
use super::emulator::{Emulator, Order};
use super::lower::lower;
use super::pack::{Layout, pack};
use crate::graph::Graph;
use crate::kernels::parity::{self, BF16_TOLERANCE, Input, TOLERANCE, WEIGHTS};
use crate::kernels::{Format, Kernels};

#[test]
fn graphs_are_computed_as_the_reference_does() {
    for (name, graph) in parity::graphs() {
        for rows in [1, 2] {
            check(name, &graph, &vec![rows; graph.inputs().len()]);
        }
    }
}

/// Compares all outputs, in every format; and the bits of one order of threads with those of the other.
fn check(name: &str, graph: &Graph, rows: &[usize]) {
    let inputs = parity::inputs(graph, rows);
    let expected = parity::run(&Kernels::reference(&Device::Cpu), graph, &inputs);
    for (format, tolerance) in [(Format::F32, TOLERANCE), (Format::Bf16, BF16_TOLERANCE)] {
        let Some(found) = run(graph, &inputs, format) else { return };
        let error = parity::difference(&expected, &found);
        assert!(error <= tolerance, "{name}, {rows:?} rows, {format:?}: {error:e}");
    }
}

/// # Shapes
/// - returns: each output, channels last
fn run(graph: &Graph, inputs: &[Input], format: Format) -> Option<Vec<Vec<f32>>> {
    let emulator = Emulator::of(format)?;
    let layout = Layout::new(graph, format);
    let packed = pack(graph, &layout, &WEIGHTS).unwrap();
    let rows: Vec<usize> = inputs.iter().map(|(shape, _)| shape[0]).collect();
    let lowered = lower(graph, &layout, format, &rows);
    // On a CPU a value has its channels last already.
    let kernels = Kernels::for_device(&Device::Cpu);
    let encoded: Vec<Vec<u8>> = inputs
        .iter()
        .zip(&lowered.inputs)
        .map(|((shape, elements), &format)| {
            let value = kernels.value(shape, elements).unwrap();
            value.with_elements(|elements| encode(format, elements)).unwrap()
        })
        .collect();
    let outputs = emulator.run(&lowered, &packed, &encoded, Order::Forwards);
    assert_eq!(
        outputs,
        emulator.run(&lowered, &packed, &encoded, Order::Backwards),
        "bits depend on the order of threads"
    );
    Some(outputs.iter().map(|output| decode(format, output)).collect())
}
