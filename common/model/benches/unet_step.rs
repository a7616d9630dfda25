//! One UNet step on one thread: 64/128/256/256 channels, 32×32 latents, two rows, synthetic weights.
//!
//! ```text
//! RAYON_NUM_THREADS=1 taskset -c 0 cargo bench -p asyncdiff-model --bench unet_step
//! ASYNCDIFF_DEVICE=cuda cargo bench -p asyncdiff-model --features cuda --bench unet_step
//! ```
//!
//! The network is the one that PyTorch's figures in the README are for. Before the step is timed as a whole, a table says
//! how much of it each kind of layer takes, each layer measured by itself.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::FormulaWeights;
use asyncdiff_model::component::{Component, evaluate_values, measure};
use asyncdiff_model::families::{DenoiserConfig, DenoiserProgram, DenoiserShape, build};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::{DeviceChoice, Format, Kernels, Value};
use asyncdiff_plan::LayerId;
use criterion::{Criterion, criterion_group, criterion_main};

const ROWS: usize = 2;
const SIDE: u32 = 32;
const TOKENS: u32 = 77;
const CONFIG: &str = r#"{
    "_class_name": "UNet2DConditionModel", "block_out_channels": [64, 128, 256, 256], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 256, "attention_head_dim": [2, 4, 8, 8], "use_linear_projection": true
}"#;

fn unet_step(criterion: &mut Criterion) {
    let kernels = kernels();
    let mut formats = vec![Format::F32];
    if kernels.gpu().is_some() {
        formats.push(kernels.fastest_format());
        formats.dedup();
    }
    for format in formats {
        step_in(criterion, &kernels.with_format(format), format);
    }
}

fn step_in(criterion: &mut Criterion, kernels: &Kernels, format: Format) {
    let (program, component) = load(kernels).expect("the synthetic network is a supported one");
    print_shares(&program, kernels).expect("every layer of the synthetic network runs");
    let shapes = [vec![ROWS, 4, SIDE as usize, SIDE as usize], vec![1], vec![ROWS, TOKENS as usize, 256]];
    let value = |shape: &Vec<usize>| component.kernels().value(shape, &formula::input("latents", shape, 1));
    let inputs: Vec<Value> = shapes.iter().map(value).collect::<Result<_, _>>().expect("the formula fills the shapes");
    let step = || {
        let prediction = evaluate_values(&component, &inputs);
        // A GPU computes in the background; on a CPU this does nothing.
        kernels.synchronize().expect("a device that computed the layers one by one");
        prediction
    };
    let mut group = criterion.benchmark_group("unet_step");
    group.sample_size(20).measurement_time(Duration::from_secs(10));
    group.bench_function(format!("64-128-256-256 {}", format.name()), |bencher| bencher.iter(|| black_box(step())));
    group.finish();
}

fn load(kernels: &Kernels) -> Result<(DenoiserProgram, Component), ModelError> {
    let shape = DenoiserShape { height: SIDE, width: SIDE, tokens: TOKENS };
    let program = build(&DenoiserConfig::from_json(CONFIG)?, &shape)?;
    let owned: Vec<LayerId> = program.program.owned_layers().map(|(id, _)| id).collect();
    let component = Component::load(&program, &owned, &FormulaWeights { seed: 1 }, kernels)?;
    Ok((program, component))
}

fn print_shares(program: &DenoiserProgram, kernels: &Kernels) -> Result<(), ModelError> {
    let layers: Vec<LayerId> = program.program.layers().map(|(id, _)| id).collect();
    let durations = measure(program, kernels, ROWS, &layers)?;
    let total: Duration = durations.iter().sum();
    let mut kinds: BTreeMap<&str, (Duration, u64)> = BTreeMap::new();
    for (&layer, &duration) in layers.iter().zip(&durations) {
        let (sum, flops) = kinds.entry(program.op(layer).kind()).or_default();
        *sum += duration;
        *flops += program.program.layer(layer).flops * ROWS as u64;
    }
    println!("| layers | ms | share | GFLOP/s |\n|---|---|---|---|");
    for (kind, (sum, flops)) in kinds {
        let seconds = sum.as_secs_f64();
        let (share, speed) = (100.0 * seconds / total.as_secs_f64(), flops as f64 / seconds / 1e9);
        println!("| {kind} | {:.2} | {share:.1} % | {speed:.0} |", seconds * 1e3);
    }
    println!("| all | {:.1} | | |", total.as_secs_f64() * 1e3);
    Ok(())
}

/// Of the device that `ASYNCDIFF_DEVICE` names, as `worker join --device` takes it; the CPU without it.
fn kernels() -> Kernels {
    let choice: DeviceChoice = match std::env::var("ASYNCDIFF_DEVICE") {
        Ok(name) => name.parse().expect("a device's name"),
        Err(_) => DeviceChoice::Cpu,
    };
    Kernels::for_choice(choice).expect("the device that was named")
}

criterion_group!(benches, unet_step);
criterion_main!(benches);
