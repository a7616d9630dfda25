//! What lowering decides, at sizes that no test can compute.

use super::super::emulator::limits;
use super::super::launch::{Kernel, Lowered, Memory, Step};
use super::super::pack::Layout;
use super::lower;
use crate::graph::{Activation, Convolution, Extent, Graph, GraphBuilder, SinusoidsOp, Store};
use crate::kernels::Format;
use crate::kernels::parity::{resnet, transformer};

fn lowered(graph: &Graph, format: Format, rows: usize) -> Lowered {
    lower(graph, &Layout::new(graph, format), format, &vec![rows; graph.inputs().len()])
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
    lower(&graph, &Layout::new(&graph, Format::F32), Format::F32, &[3, 2, 1]);
}
