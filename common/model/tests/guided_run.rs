//! A whole guided run in one place, denoiser and noise scheduler together, against diffusers.
#![allow(clippy::unwrap_used)]

mod golden_family;

use asyncdiff_model::noise_scheduler::{NoiseScheduler, SchedulerConfig};
use candle_core::{Device, IndexOp, Tensor};
use golden_family::{FAMILIES, Golden, floats, load_whole, relative_error};

/// The golden data's own bound; the same semantics in f64 differ by less than a tenth of it.
const TOLERANCE: f32 = 1e-4;

#[test]
fn a_guided_run_is_that_of_diffusers() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        let component = load_whole(&golden.program(), &golden);
        let config = SchedulerConfig::from_json(&golden.text("scheduler/scheduler_config.json")).unwrap();
        let mut scheduler = NoiseScheduler::new(&config, 12, 0).unwrap();
        let timesteps: Vec<f64> = golden.tensor("seq/timesteps").to_vec1().unwrap();
        assert_eq!(scheduler.timesteps(), timesteps);

        let scale = golden.runs["guidance_scale"].as_f64().unwrap() as f32;
        let shape = golden.latents().dims().to_vec();
        let mut latents: Vec<f32> = floats(&golden.latents());
        let mut scaled = Vec::new();
        for (step, &timestep) in timesteps.iter().enumerate() {
            scheduler.scale_model_input(step, &latents, &mut scaled);
            let input = Tensor::from_vec(scaled.clone(), shape.as_slice(), &Device::Cpu).unwrap();
            let input = Tensor::cat(&[&input, &input], 0).unwrap();
            let predicted = golden.evaluate(&component, &input, timestep);
            let expected = golden.tensor("seq/noise_pred").i(step).unwrap();
            let error = relative_error(&floats(&predicted), &floats(&expected));
            assert!(error <= TOLERANCE, "{family} step {step}: {error:e}");
            let halves = [floats(&predicted.i(0).unwrap()), floats(&predicted.i(1).unwrap())];
            let guide = |(&negative, &positive)| negative + scale * (positive - negative);
            let guided: Vec<f32> = halves[0].iter().zip(&halves[1]).map(guide).collect();
            scheduler.step(step, &guided, &mut latents);
        }
        let expected = floats(&golden.tensor("seq/latents").i(3).unwrap());
        let error = relative_error(&latents, &expected);
        assert!(error <= TOLERANCE, "{family}: {error:e}");
    }
}
