//! A step allocates nothing once every buffer has been taken.
//!
//! A test binary of its own, because it counts the whole process' allocations, and one test, so that nothing else allocates meanwhile.
#![allow(clippy::unwrap_used)]
// An allocator is unsafe to write, and counting needs one.
#![allow(unsafe_code)]

mod golden_family;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use asyncdiff_model::component::Component;
use asyncdiff_model::kernels::{Format, Kernels, Value};
use asyncdiff_plan::{InputKind, LayerId, Operand, Program};
use candle_core::Device;
use golden_family::Golden;

/// Steps before nothing may be allocated any more: the first takes every buffer, the second shows that the first gave them back.
const WARM_UP: usize = 2;

/// The most operands that a layer reads: hidden states, skip connection, time embedding, context.
const OPERANDS_MAX: usize = 4;

/// The system's allocator, and how often it was asked for memory.
struct Counting {
    allocations: AtomicUsize,
}

#[global_allocator]
static ALLOCATOR: Counting = Counting { allocations: AtomicUsize::new(0) };

// SAFETY: every call is handed to the system's allocator as it came, so its guarantees are this one's; a count touches no memory of others.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: what the caller promises of the layout is what the system's allocator asks for.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the pointer came from the system's allocator, because all do.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn a_step_after_the_first_allocates_nothing() {
    for family in ["sd15", "sdxl"] {
        let golden = Golden::open(family);
        for (threads, format) in [(1, Format::F32), (1, Format::Bf16), (2, Format::F32), (2, Format::Bf16)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| allocations_of_a_step(&golden, format));
            let what = "calls of the allocator and mapped pages";
            assert_eq!(found, [0; 2], "{what}: {family}, {format:?}, {threads} threads");
        }
    }
}

/// Calls of the allocator during a step, and pages by which the address space grew: kernels' buffers are mapped and not allocated.
fn allocations_of_a_step(golden: &Golden, format: Format) -> [usize; 2] {
    let program = golden.program();
    let owned: Vec<LayerId> = program.program.owned_layers().map(|(layer, _)| layer).collect();
    let kernels = Kernels::for_device(&Device::Cpu).with_format(format);
    let component = Component::load(&program, &owned, &golden.weights(), &kernels).unwrap();
    let mut steps = Steps::new(&component, golden);
    for _step in 0..WARM_UP {
        steps.run();
    }
    let pages = mapped_pages();
    let before = ALLOCATOR.allocations.load(Ordering::Relaxed);
    steps.run();
    let allocations = ALLOCATOR.allocations.load(Ordering::Relaxed) - before;
    [allocations, mapped_pages().saturating_sub(pages)]
}

/// What a denoising loop keeps from step to step. It allocates nothing itself while a step runs.
struct Steps<'a> {
    component: &'a Component,
    inputs: Vec<Value>,
    values: Vec<Option<Value>>,
    /// By value, the last layer that reads it.
    last_readers: Vec<Option<LayerId>>,
}

impl<'a> Steps<'a> {
    fn new(component: &'a Component, golden: &Golden) -> Self {
        let program = component.program();
        let latents = candle_core::Tensor::cat(&[golden.latents(), golden.latents()], 0).unwrap();
        let input = |kind: &InputKind| match kind {
            InputKind::Condition(name) => component.kernels().value_of(&golden.condition(name)).unwrap(),
            InputKind::Latents => component.kernels().value_of(&latents).unwrap(),
            InputKind::Timestep => component.kernels().value(&[1], &[917.0]).unwrap(),
        };
        Self {
            component,
            inputs: program.inputs.iter().map(|described| input(&described.kind)).collect(),
            values: vec![None; program.layers.len()],
            last_readers: last_readers(program),
        }
    }

    /// All layers in order; a value is dropped when its last reader has run.
    fn run(&mut self) {
        let Self { component, inputs, values, last_readers } = self;
        for (layer, described) in component.program().layers() {
            let mut operands = [&inputs[0]; OPERANDS_MAX];
            for (operand, read) in operands.iter_mut().zip(&described.reads) {
                *operand = match read {
                    Operand::Input(input) => &inputs[input.index()],
                    Operand::Value(value) => values[value.index()].as_ref().unwrap(),
                };
            }
            let value = component.run_layer(layer, &operands[..described.reads.len()]).unwrap();
            values[layer.index()] = Some(value);
            for read in &described.reads {
                if let Operand::Value(read) = read
                    && last_readers[read.index()] == Some(layer)
                {
                    values[read.index()] = None;
                }
            }
        }
        // The noise prediction, which no layer reads.
        values.fill(None);
    }
}

fn last_readers(program: &Program) -> Vec<Option<LayerId>> {
    let mut last = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        for read in &described.reads {
            if let Operand::Value(value) = read {
                last[value.index()] = Some(layer);
            }
        }
    }
    last
}

/// Pages of the process' address space.
fn mapped_pages() -> usize {
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap();
    sizes.split_whitespace().next().unwrap().parse().unwrap()
}
