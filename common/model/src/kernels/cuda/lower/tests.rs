//! What lowering decides, at sizes that no test can compute.

use super::super::emulator::limits;
use super::super::fused::{Convolutions, Fixed};
use super::super::launch::{Kernel, Lowered, Memory, Step};
use super::super::pack::Layout;
use super::lower;
use crate::graph::{
    Activation, AttentionHeads, AttentionMask, Convolution, Extent, Graph, GraphBuilder, SinusoidsOp, Store,
};
use crate::kernels::Format;
use crate::kernels::parity::{resnet, transformer};

fn lowered(graph: &Graph, format: Format, rows: usize) -> Lowered {
    lower(graph, &Layout::new(graph, format), format, &vec![rows; graph.inputs().len()], &Fixed::NOTHING)
}

fn linear(out_channels: usize, store: Store) -> Graph {
    let mut graph = GraphBuilder::new(&[Extent::tokens(4096, 320)]);
    let output = graph.convolution("linear", &[graph.input(0)], Convolution::linear(out_channels).store(store));
    graph.finish(&[output])
}

#[test]
fn a_linear_layer_is_a_product_of_what_it_reads() {
    let graph = linear(640, Store::Plain(Activation::None));
    let lowered = lowered(&graph, Format::Bf16, 2);
    assert_eq!(lowered.scratch_bytes, 0);
    assert_eq!(lowered.outputs, [2 * 4096 * 640 * 2]);
    let [(0, Step::Product(product)), (0, Step::Launch(finish))] = &lowered.steps[..] else {
        panic!("{:?}", lowered.steps)
    };
    assert_eq!((product.m, product.n, product.k), (2 * 4096, 640, 320));
    assert_eq!((product.left.memory, product.target.memory), (Memory::Input(0), Memory::Output(0)));
    assert_eq!(finish.kernel, Kernel::Finish);
}

#[test]
fn pictures_of_a_million_pixels_stay_within_the_limits_and_the_scratch() {
    let map = |height, width, channels| Extent { height, width, channels };
    let graphs =
        [resnet(map(1024, 1024, 128), 256), transformer(map(128, 128, 640), [1, 512]), linear(64 * 320, Store::Geglu)];
    for graph in &graphs {
        for format in [Format::Bf16, Format::F16, Format::F32] {
            let lowered = lowered(graph, format, 2);
            assert!(lowered.scratch_bytes <= 65 << 20, "{} bytes of scratch", lowered.scratch_bytes);
            for (_, step) in &lowered.steps {
                if let Step::Launch(launch) = step {
                    limits::check(launch);
                }
            }
        }
    }
}

#[test]
fn bands_cover_every_pixel_once() {
    let mut graph = GraphBuilder::new(&[Extent { height: 256, width: 256, channels: 512 }]);
    let output = graph.convolution("convolution", &[graph.input(0)], Convolution::same3(512));
    let lowered = lowered(&graph.finish(&[output]), Format::Bf16, 3);
    let mut next = 0;
    for (_, step) in &lowered.steps {
        if let Step::Product(product) = step {
            assert_eq!(product.target.offset, next * 512 * 2);
            next += product.m;
        }
    }
    assert_eq!(next, 3 * 256 * 256);
}

/// `resnet` reads a skip connection beside its source; its group norms write what one convolution reads.
#[test]
fn a_library_takes_convolutions_with_what_follows_them() {
    let map = Extent { height: 12, width: 12, channels: 64 };
    let graph = resnet(map, 64);
    let lower = |convolutions| {
        let layout = Layout::new(&graph, Format::Bf16);
        lower(&graph, &layout, Format::Bf16, &[2, 2, 1], &Fixed { convolutions, ..Fixed::NOTHING }).steps
    };
    let kinds = |steps: &[(usize, Step)], node| -> Vec<&str> {
        let kind = |step: &Step| match step {
            Step::Attention(_) => "attention",
            Step::Convolution(_) => "convolution",
            Step::Launch(launch) => launch.kernel.name(),
            Step::Product(_) => "product",
        };
        steps.iter().filter(|(of, _)| *of == node).map(|(_, step)| kind(step)).collect()
    };
    let node = |name: &str| graph.nodes().iter().position(|node| node.name == name).unwrap();
    for conv in ["conv1", "conv2"] {
        assert_eq!(kinds(&lower(Convolutions::Any), node(conv)), ["convolution"]);
        assert_eq!(kinds(&lower(Convolutions::Plain), node(conv)), ["convolution", "finish"]);
    }
    assert_eq!(kinds(&lower(Convolutions::Any), node("shortcut")), ["gather", "convolution"]);
    assert_eq!(kinds(&lower(Convolutions::Plain), node("shortcut")), ["gather", "product", "finish"]);
    let steps = lower(Convolutions::Any);
    let Some((_, Step::Convolution(first))) = steps.iter().find(|(of, _)| *of == node("conv1")) else { panic!() };
    assert_eq!((first.shape.then.row_bias, first.shape.then.residual), (Some(1), None));
}

#[test]
fn a_library_computes_gates_before_what_they_are_for() {
    let graph = linear(2 * 320, Store::Geglu);
    let layout = Layout::new(&graph, Format::Bf16);
    let offers = Fixed { convolutions: Convolutions::Any, ..Fixed::NOTHING };
    let lowered = lower(&graph, &layout, Format::Bf16, &[2], &offers);
    let [(0, Step::Convolution(gates)), (0, Step::Convolution(values))] = &lowered.steps[..] else {
        panic!("{:?}", lowered.steps)
    };
    assert_eq!((gates.target, values.target.memory), (values.factor.unwrap(), Memory::Output(0)));
    assert_eq!(gates.weights.offset - values.weights.offset, 320 * 320 * 2);
    assert_eq!(gates.bias.unwrap().offset - values.bias.unwrap().offset, 320 * 4);
    assert_eq!(lowered.scratch_bytes, 2 * 4096 * 320 * 2);
}

#[test]
fn attention_goes_by_tiles_of_16_bits_and_whole_vectors() {
    let kernel = |format, offset: usize, tiles| {
        let mut graph = GraphBuilder::new(&[Extent::tokens(100, offset + 3 * 80)]);
        let operands = [0, 1, 2].map(|index| (graph.input(0), offset + index * 80));
        let heads = AttentionHeads { count: 1, width: 80 };
        let output = graph.attention("attention", operands, heads, AttentionMask::None);
        let graph = graph.finish(&[output]);
        let offers = Fixed { tiles, ..Fixed::NOTHING };
        let lowered = lower(&graph, &Layout::new(&graph, format), format, &[1], &offers);
        let [(0, Step::Launch(launch))] = &lowered.steps[..] else { panic!("{:?}", lowered.steps) };
        limits::check(launch);
        (launch.kernel, launch.grid[0])
    };
    assert_eq!(kernel(Format::Bf16, 8, true), (Kernel::AttentionTiles128, 2));
    assert_eq!(kernel(Format::Bf16, 4, true), (Kernel::Attention128, 7));
    assert_eq!(kernel(Format::Bf16, 8, false), (Kernel::Attention128, 7));
    assert_eq!(kernel(Format::F32, 8, true), (Kernel::Attention128, 7));
}

#[test]
fn what_a_library_convolves_is_upsampled_before() {
    let mut graph = GraphBuilder::new(&[Extent { height: 8, width: 8, channels: 16 }]);
    let doubling = Convolution { upsampled: Some([16, 16]), ..Convolution::same3(16) };
    let output = graph.convolution("up", &[graph.input(0)], doubling);
    let graph = graph.finish(&[output]);
    let layout = Layout::new(&graph, Format::Bf16);
    let lowered =
        lower(&graph, &layout, Format::Bf16, &[2], &Fixed { convolutions: Convolutions::Any, ..Fixed::NOTHING });
    let [(0, Step::Launch(gather)), (0, Step::Convolution(convolution))] = &lowered.steps[..] else {
        panic!("{:?}", lowered.steps)
    };
    assert_eq!((gather.kernel, gather.grid), (Kernel::Gather, [2 * 16 * 16, 1, 1]));
    assert_eq!((convolution.source.memory, lowered.scratch_bytes), (Memory::Scratch, 2 * 16 * 16 * 16 * 2));
    assert_eq!((convolution.shape.height, convolution.shape.out_height), (16, 16));
}

#[test]
fn numbers_of_sinusoids_alone_are_read_as_floats() {
    let op = || SinusoidsOp { frequencies: vec![1.0], flip_sin_to_cos: false };
    let mut graph = GraphBuilder::new(&[Extent::vector(2); 2]);
    let first = graph.sinusoids("first", graph.input(0), op());
    let second = graph.sinusoids("second", graph.input(1), op());
    let linear = graph.convolution("linear", &[graph.input(1)], Convolution::linear(4));
    let sum = graph.add("sum", [first, linear]);
    let sum = graph.add("sum", [sum, second]);
    assert_eq!(lowered(&graph.finish(&[sum]), Format::Bf16, 1).inputs, [Format::F32, Format::Bf16]);
}

#[test]
#[should_panic(expected = "reads 2")]
fn operands_of_differing_rows_are_refused() {
    let graph = resnet(Extent { height: 4, width: 4, channels: 8 }, 8);
    lower(&graph, &Layout::new(&graph, Format::F32), Format::F32, &[3, 2, 1], &Fixed::NOTHING);
}
