//! Runs one kind of kernel, or one step of a small UNet, for callgrind to count its instructions: see `.ci/instructions`.
//!
//! ```text
//!   instructions          prints the names of all cases
//!   instructions NAME     prints the instruction set's name; prepares ─► runs, so that memory is taken ─► counted_run
//! ```
//!
//! Callgrind counts inside [`counted_run`] alone.

use std::hint::black_box;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::FormulaWeights;
use asyncdiff_model::component::{Component, evaluate_values};
use asyncdiff_model::families::{DenoiserConfig, DenoiserShape, build};
use asyncdiff_model::formula;
use asyncdiff_model::graph::{
    Activation, AttentionHeads, AttentionMask, Convolution, Extent, GraphBuilder, Slot, Store,
};
use asyncdiff_model::kernels::{Isa, Kernels, Value};
use asyncdiff_plan::LayerId;
use candle_core::Device;

/// The two halves of guidance, as in a step.
const ROWS: usize = 2;

/// The shape that single kernels are run on: that of a layer of the demo model.
const HIDDEN: Extent = Extent { height: 16, width: 16, channels: 64 };

/// The small UNet that the golden data is of: every kind of layer in a few million multiplications.
const UNET: &str = include_str!("../../../tests/golden/sd15/unet/config.json");
const LATENTS: DenoiserShape = DenoiserShape { height: 16, width: 16, tokens: 77 };
const CONTEXT_WIDTH: usize = 32;

/// Seed of the weights and inputs; counts hardly depend on them.
const SEED: u64 = 1;

/// What a case runs.
type Run = Box<dyn Fn() -> Result<Value, ModelError>>;

/// What is counted, by name.
type Case = (&'static str, fn(&Kernels) -> Result<Run, ModelError>);

const CASES: [Case; 8] = [
    ("direct-convolution", |kernels| kernel(kernels, direct_convolution)),
    ("winograd-convolution", |kernels| kernel(kernels, winograd_convolution)),
    ("linear", |kernels| kernel(kernels, linear)),
    ("geglu", |kernels| kernel(kernels, geglu)),
    ("attention", |kernels| kernel(kernels, attention)),
    ("group-norm", |kernels| kernel(kernels, group_norm)),
    ("layer-norm", |kernels| kernel(kernels, layer_norm)),
    ("unet-step", unet_step),
];

fn main() -> Result<(), ModelError> {
    let Some(wanted) = std::env::args().nth(1) else {
        CASES.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(());
    };
    let Some((_, prepare)) = CASES.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("{wanted} is no case; without arguments the cases are listed");
        std::process::exit(2);
    };
    println!("{}", Isa::best().name());
    let run = prepare(&Kernels::for_device(&Device::Cpu))?;
    run()?;
    counted_run(&run)
}

/// The function that callgrind looks for by its name.
#[inline(never)]
fn counted_run(run: &Run) -> Result<(), ModelError> {
    black_box(run()?);
    Ok(())
}

/// An operation on hidden states of [`HIDDEN`].
fn kernel(kernels: &Kernels, build: impl Fn(&mut GraphBuilder, Slot) -> Slot) -> Result<Run, ModelError> {
    let mut graph = GraphBuilder::new(&[HIDDEN]);
    let input = graph.input(0);
    let output = build(&mut graph, input);
    let prepared = kernels.prepare(graph.finish(&[output]), &FormulaWeights { seed: SEED })?;
    let Extent { height, width, channels } = HIDDEN;
    let shape = [ROWS, channels, height, width];
    let hidden = kernels.value(&shape, &formula::input("latents", &shape, SEED))?;
    Ok(Box::new(move || prepared.run(&[&hidden])))
}

/// A 3×3 convolution of stride 2, which Winograd's algorithms do not apply to.
fn direct_convolution(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    graph.convolution("direct", &[hidden], Convolution { stride: 2, ..Convolution::same3(HIDDEN.channels) })
}

/// A 3×3 convolution of stride 1 with as many channels as Winograd's algorithms gain by.
fn winograd_convolution(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    let activated = Convolution::same3(HIDDEN.channels).store(Store::Plain(Activation::Silu)).plus(hidden);
    graph.convolution("winograd", &[hidden], activated)
}

fn linear(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    graph.convolution("linear", &[hidden], Convolution::linear(HIDDEN.channels).plus(hidden))
}

fn geglu(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    graph.convolution("geglu", &[hidden], Convolution::linear(2 * HIDDEN.channels).store(Store::Geglu))
}

fn attention(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    let heads = AttentionHeads { count: 2, width: HIDDEN.channels / 2 };
    graph.attention("attention", [(hidden, 0); 3], heads, AttentionMask::None)
}

fn group_norm(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    graph.group_norm("group_norm", &[hidden], (32, 1e-5), Activation::Silu)
}

fn layer_norm(graph: &mut GraphBuilder, hidden: Slot) -> Slot {
    graph.layer_norm("layer_norm", hidden, 1e-5)
}

/// All layers in order, in one place.
fn unet_step(kernels: &Kernels) -> Result<Run, ModelError> {
    let program = build(&DenoiserConfig::from_json(UNET)?, &LATENTS)?;
    let owned: Vec<LayerId> = program.program.owned_layers().map(|(layer, _)| layer).collect();
    let component = Component::load(&program, &owned, &FormulaWeights { seed: SEED }, kernels)?;
    let DenoiserShape { height, width, tokens } = LATENTS;
    let shapes = [vec![ROWS, 4, height as usize, width as usize], vec![1], vec![ROWS, tokens as usize, CONTEXT_WIDTH]];
    let value = |shape: &Vec<usize>| kernels.value(shape, &formula::input("latents", shape, SEED));
    let inputs: Vec<Value> = shapes.iter().map(value).collect::<Result<_, _>>()?;
    Ok(Box::new(move || evaluate_values(&component, &inputs)))
}
