//! How long choosing a plan takes: every job waits for it.
//!
//! ```text
//! cargo bench -p asyncdiff-model --bench planning
//! ```
//!
//! Stable Diffusion 2.1's UNet at 768×768, equal devices and links, the planner's choice and as many components as devices. Costs that are
//! proportional to operations, as simulated devices have them.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_model::families::{DenoiserConfig, DenoiserShape, build};
use asyncdiff_plan::{
    Choice, Device, LayerMemory, LayerSeconds, LinkCost, Links, PolicyError, Program, Situation, StepIndex, Wishes,
    choose,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const SIDE: u32 = 96;
const TOKENS: u32 = 77;
const ROWS: u32 = 2;
const CONFIG: &str = r#"{
    "_class_name": "UNet2DConditionModel", "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": true
}"#;

/// Devices and steps.
const CASES: [(usize, u32); 4] = [(2, 50), (8, 50), (32, 50), (64, 300)];

/// Operations per second of a device.
const FLOPS_PER_SECOND: f64 = 2.0e13;

/// 10 Gbit/s.
const LINK: LinkCost = LinkCost {
    latency_seconds: 0.000_2,
    bytes_per_second: 1.25e9,
    busy_seconds_per_byte: 0.5e-9,
    busy_seconds_per_tensor: 0.000_02,
};

fn planning(criterion: &mut Criterion) {
    let config = DenoiserConfig::from_json(CONFIG).expect("the configuration is a published one");
    let shape = DenoiserShape { height: SIDE, width: SIDE, tokens: TOKENS };
    let program = build(&config, &shape).expect("the network is a supported one").program;
    let mut group = criterion.benchmark_group("planning");
    group.sample_size(10).warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_secs(3));
    for (devices, steps) in CASES {
        for (name, components) in [("chosen", None), ("as-many-components", Some(devices as u16))] {
            let wishes = Wishes { components, ..Wishes::default() };
            let plan = || plan(&program, &wishes, devices, steps).expect("there are devices");
            group.bench_function(BenchmarkId::new(name, format!("{devices}-devices-{steps}-steps")), |bencher| {
                bencher.iter(|| black_box(plan()));
            });
        }
    }
    group.finish();
}

fn plan(program: &Arc<Program>, wishes: &Wishes, devices: usize, steps: u32) -> Result<Choice, PolicyError> {
    let seconds = |rows: u32| -> Vec<f64> {
        program.layers.iter().map(|layer| layer.flops as f64 * f64::from(rows) / FLOPS_PER_SECOND).collect()
    };
    let (whole, half) = (seconds(ROWS), seconds(ROWS / 2));
    choose(
        wishes,
        &Situation {
            program,
            steps: NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN),
            first: StepIndex(0),
            guidance_on: true,
            rows: ROWS,
            layer_seconds: LayerSeconds { whole: &whole, half: &half },
            layer_memory: &vec![LayerMemory::default(); program.layers.len()],
            devices: &vec![Device { speed: 1.0, memory_bytes: u64::MAX }; devices],
            links: &Links::uniform(LINK),
            turnaround_seconds: 0.000_3,
            now: Instant::now(),
        },
    )
}

criterion_group!(benches, planning);
criterion_main!(benches);
