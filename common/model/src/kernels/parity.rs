//! Whole graphs on every instruction set that this CPU has, against candle's own operations.
//!
//! Each kernel's own tests compare it with plain loops over many shapes; here is what lies between kernels: registers, operands, offsets, rows.

use candle_core::Device;

use super::{Format, Isa, Kernels, Value};
use crate::checkpoint::FormulaWeights;
use crate::formula;
use crate::graph::{
    Activation, AttentionHeads, AttentionMask, Convolution, Extent, Graph, GraphBuilder, SinusoidsOp, Store,
};

/// Of the largest element. F(4×4) of Winograd loses one digit more than a plain sum in f32.
pub(super) const TOLERANCE: f32 = 2e-5;

/// bf16 has 8 bits of mantissa: 2^-9 relative for each factor, and the errors of a sum's terms cancel in part.
pub(super) const BF16_TOLERANCE: f32 = 3e-2;

/// f16 has 11 bits of mantissa: 2^-12 relative for each factor.
pub(super) const F16_TOLERANCE: f32 = 4e-3;

/// In every format, with the tolerance of a graph's longest chain of operations.
pub(super) const FORMATS: [(Format, f32); 3] =
    [(Format::F32, TOLERANCE), (Format::Bf16, BF16_TOLERANCE), (Format::F16, F16_TOLERANCE)];

pub(super) const WEIGHTS: FormulaWeights = FormulaWeights { seed: 11 };

#[test]
fn every_instruction_set_computes_what_candle_does() {
    let reference = Kernels::reference(&Device::Cpu);
    for &isa in Isa::ALL {
        if !Isa::available().contains(&isa) {
            eprintln!("skipped: this CPU has no {}", isa.name());
            continue;
        }
        // In f16 a CPU computes in f32.
        for (format, tolerance) in FORMATS {
            let kernels = Kernels::cpu(isa).with_format(format);
            for (name, graph) in graphs() {
                for rows in [1, 2] {
                    let inputs = inputs(&graph, &vec![rows; graph.inputs().len()]);
                    let error = difference(&run(&reference, &graph, &inputs), &run(&kernels, &graph, &inputs), 0.0);
                    assert!(error <= tolerance, "{name}, {rows} rows, {}, {format:?}: {error:e}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_second_run_gives_the_same_bits_also_in_new_memory() {
    let kernels = Kernels::for_device(&Device::Cpu);
    for (name, graph) in graphs() {
        let inputs = inputs(&graph, &vec![2; graph.inputs().len()]);
        let first = run(&kernels, &graph, &inputs);
        assert_eq!(run(&kernels, &graph, &inputs), first, "{name}");
        kernels.trim();
        assert_eq!(run(&kernels, &graph, &inputs), first, "{name} after its memory was given back");
    }
}

#[test]
fn rows_are_taken_and_joined() {
    for kernels in [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)] {
        for shape in [vec![3, 5, 4, 6], vec![3, 7, 5], vec![3, 8]] {
            let elements = formula::noise("rows", &shape, 1);
            let whole = kernels.value(&shape, &elements).unwrap();
            let parts = [whole.narrow(0..1), whole.narrow(1..3)];
            assert_eq!(Value::concatenate(&parts).unwrap().to_elements().unwrap(), elements);
            assert_eq!(parts[1].shape()[0], 2);
            assert_eq!(parts[1].to_elements().unwrap(), elements[elements.len() / 3..]);
        }
    }
}

#[test]
fn one_row_is_added_to_all() {
    let mut graph = GraphBuilder::new(&[Extent::vector(3); 2]);
    let sum = graph.add("sum", [graph.input(0), graph.input(1)]);
    let graph = graph.finish(&[sum]);
    for kernels in [Kernels::for_device(&Device::Cpu), Kernels::reference(&Device::Cpu)] {
        let prepared = kernels.prepare(graph.clone(), &WEIGHTS).unwrap();
        let one = kernels.value(&[1, 3], &[1.0, 2.0, 3.0]).unwrap();
        let all = kernels.value(&[2, 3], &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0]).unwrap();
        for operands in [[&one, &all], [&all, &one]] {
            let sum = prepared.run(&operands).unwrap();
            assert_eq!(sum.shape(), [2, 3]);
            assert_eq!(sum.to_elements().unwrap(), [11.0, 22.0, 33.0, 41.0, 52.0, 63.0]);
        }
    }
}

/// By name, graphs of odd sizes and of those that kernels are made for.
pub(super) fn graphs() -> Vec<(&'static str, Graph)> {
    let map = |height, width, channels| Extent { height, width, channels };
    let mut graphs = Vec::new();
    for (channels, size) in [(20, [5, 7]), (64, [16, 16]), (33, [9, 4])] {
        graphs.push(("resnet", resnet(map(size[0], size[1], channels), channels + 12)));
        graphs.push(("transformer", transformer(map(size[0], size[1], channels), [4, 5])));
        graphs.push(("resampling", resampling(map(size[0], size[1], channels))));
    }
    graphs.push(("concatenation", concatenation(map(4, 4, 12), 20)));
    graphs.push(("causal", causal(Extent::tokens(77, 48))));
    graphs.push(("embedding", embedding(1)));
    graphs.push(("embedding of several numbers", embedding(6)));
    graphs
}

/// With a skip connection, a vector added to every pixel and a shortcut.
pub(super) fn resnet(hidden: Extent, out_channels: usize) -> Graph {
    let skip = Extent { channels: hidden.channels + 8, ..hidden };
    let mut graph = GraphBuilder::new(&[hidden, skip, Extent::vector(out_channels)]);
    let (hidden, skip, time) = (graph.input(0), graph.input(1), graph.input(2));
    let normed = graph.group_norm("norm1", &[hidden, skip], (2, 1e-5), Activation::Silu);
    let conv1 = Convolution { row_bias: Some(time), ..Convolution::same3(out_channels) };
    let inner = graph.convolution("conv1", &[normed], conv1);
    let inner = graph.group_norm("norm2", &[inner], (1, 1e-6), Activation::Silu);
    let shortcut = graph.convolution("shortcut", &[hidden, skip], Convolution::pointwise(out_channels));
    let output = graph.convolution("conv2", &[inner], Convolution::same3(out_channels).plus(shortcut));
    graph.finish(&[output])
}

/// Self-attention, attention to an operand that holds keys and values, and a gated feed-forward.
pub(super) fn transformer(hidden: Extent, [heads, head_width]: [usize; 2]) -> Graph {
    let heads = AttentionHeads { count: heads, width: head_width };
    let inner = heads.channels();
    let mut graph = GraphBuilder::new(&[hidden, Extent::tokens(13, 2 * inner)]);
    let (hidden, context) = (graph.input(0), graph.input(1));
    let tokens = graph.convolution("in", &[hidden], Convolution::linear(inner));
    let normed = graph.layer_norm("norm", tokens, 1e-5);
    let names = ["q", "k", "v"].map(str::to_owned);
    let all = graph.convolutions(&names, &[normed], Convolution::linear(inner).without_bias());
    let operands = [(all, 0), (all, inner), (all, 2 * inner)];
    let attended = graph.attention("self", operands, heads, AttentionMask::None);
    let tokens = graph.convolution("out", &[attended], Convolution::linear(inner).plus(tokens));
    let query = graph.convolution("q2", &[tokens], Convolution::linear(inner));
    let operands = [(query, 0), (context, 0), (context, inner)];
    let attended = graph.attention("cross", operands, heads, AttentionMask::None);
    let gated = graph.convolution("gated", &[attended], Convolution::linear(6 * inner).store(Store::Geglu));
    let output = graph.convolution("last", &[gated], Convolution::linear(inner).plus(tokens));
    graph.finish(&[output])
}

fn resampling(hidden: Extent) -> Graph {
    let mut graph = GraphBuilder::new(&[hidden]);
    let larger = [2 * hidden.height - 1, 2 * hidden.width];
    let doubling = Convolution { upsampled: Some(larger), ..Convolution::same3(8) };
    let doubled = graph.convolution("up", &[graph.input(0)], doubling);
    let halved = graph.convolution("down", &[doubled], Convolution { stride: 2, ..Convolution::same3(24) });
    let one_sided = Convolution { stride: 2, padding: [0, 1], ..Convolution::same3(5) };
    let output = graph.convolution("one-sided", &[halved], one_sided);
    graph.finish(&[output, halved])
}

fn concatenation(first: Extent, more: usize) -> Graph {
    let mut graph = GraphBuilder::new(&[first, Extent { channels: more, ..first }]);
    let (first, second) = (graph.input(0), graph.input(1));
    let both = graph.concatenate("both", &[first, second]);
    let output = graph.activate("both", both, Activation::Gelu);
    graph.finish(&[output])
}

fn causal(tokens: Extent) -> Graph {
    let mut graph = GraphBuilder::new(&[tokens]);
    let hidden = graph.input(0);
    let heads = AttentionHeads { count: 3, width: 16 };
    let attended = graph.attention("causal", [(hidden, 0); 3], heads, AttentionMask::Causal);
    let wide = Convolution::linear(100).store(Store::Plain(Activation::QuickGelu));
    let output = graph.convolution("wide", &[attended], wide);
    graph.finish(&[output])
}

/// Of so many numbers per row, side by side with a vector.
fn embedding(numbers: usize) -> Graph {
    let mut graph = GraphBuilder::new(&[Extent::vector(numbers), Extent::vector(7), Extent::vector(20)]);
    let op = SinusoidsOp { frequencies: vec![1.0, 0.1, 0.01], flip_sin_to_cos: true };
    let sinusoids = graph.sinusoids("time", graph.input(0), op);
    let first = Convolution::linear(10).store(Store::Plain(Activation::Silu));
    let hidden = graph.convolution("first", &[graph.input(1), sinusoids], first);
    let second = graph.convolution("second", &[hidden], Convolution::linear(20));
    let output = graph.add("sum", [second, graph.input(2)]);
    graph.finish(&[output])
}

/// An operand's shape and elements, as [`Kernels::value`] takes them.
pub(super) type Input = (Vec<usize>, Vec<f32>);

/// Operands of so many rows each.
pub(super) fn inputs(graph: &Graph, rows: &[usize]) -> Vec<Input> {
    let input = |(index, (extent, &rows)): (usize, (&Extent, &usize))| {
        let shape = match (extent.pixels(), extent.height) {
            (1, _) => vec![rows, extent.channels],
            (_, 1) => vec![rows, extent.width, extent.channels],
            _ => vec![rows, extent.channels, extent.height, extent.width],
        };
        let elements = formula::noise(&format!("input{index}"), &shape, 7);
        (shape, elements)
    };
    graph.inputs().iter().zip(rows).enumerate().map(input).collect()
}

/// # Shapes
/// - returns: each output, channels last
pub(super) fn run(kernels: &Kernels, graph: &Graph, inputs: &[Input]) -> Vec<Vec<f32>> {
    let prepared = kernels.prepare(graph.clone(), &WEIGHTS).unwrap();
    let value = |(shape, elements): &Input| kernels.value(shape, elements).unwrap();
    let operands: Vec<Value> = inputs.iter().map(value).collect();
    let operands: Vec<&Value> = operands.iter().collect();
    let mut outputs = [const { None }; 2];
    prepared.run_into(&operands, None, &mut outputs, &mut |_| ()).unwrap();
    outputs.iter().flatten().map(|value: &Value| value.with_elements(<[f32]>::to_vec).unwrap()).collect()
}

/// The largest difference, as a part of the largest element, or of `least` if that is larger.
pub(super) fn difference(expected: &[Vec<f32>], found: &[Vec<f32>], least: f32) -> f32 {
    assert_eq!(expected.len(), found.len());
    let of_output = |(expected, found): (&Vec<f32>, &Vec<f32>)| {
        assert_eq!(expected.len(), found.len());
        let largest = expected.iter().fold(least, |largest, value| largest.max(value.abs()));
        let distance = expected.iter().zip(found).map(|(expected, found)| (expected - found).abs());
        distance.fold(0.0f32, |most, distance| if distance.is_nan() { f32::INFINITY } else { most.max(distance) })
            / largest
    };
    expected.iter().zip(found).map(of_output).fold(0.0, f32::max)
}
