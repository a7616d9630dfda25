//! The noise schedulers against diffusers, against their own definitions, and against configs that cannot be used.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use asyncdiff_model::noise_scheduler::{
    NoiseScheduler, SchedulerConfig, SchedulerError, SchedulerKind, SchedulerState, recorded_evaluations,
    run_formula_model,
};
use asyncdiff_model::seeded_noise::standard_normal;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Golden tables were rounded to f32 by diffusers, and ours at the same places.
const TABLE_TOLERANCE: f64 = 1e-6;
/// Golden latents were computed in f32 with coefficients in f32, ours with coefficients in f64.
const LATENTS_TOLERANCE: f64 = 2e-5;

const STABLE_DIFFUSION: &str = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false,
    "steps_offset": 1, "prediction_type": "v_prediction"}"#;

fn stable_diffusion(kind: SchedulerKind) -> SchedulerConfig {
    SchedulerConfig::from_json(STABLE_DIFFUSION).unwrap().with_kind(kind)
}

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(path)
}

fn numbers(list: &Value) -> Option<Vec<f64>> {
    Some(list.as_array()?.iter().map(|number| number.as_f64().unwrap()).collect())
}

fn relative_difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "different lengths");
    let largest = expected.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    let difference = differences.fold(0.0, f64::max);
    if largest > 0.0 { difference / largest } else { difference }
}

fn tensor(file: &SafeTensors<'_>, name: &str) -> Option<Vec<f64>> {
    let view = file.tensor(name).ok()?;
    let bytes = view.data();
    Some(match view.dtype() {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        other => panic!("{name} is {other:?}"),
    })
}

#[test]
fn every_run_of_the_golden_parts_is_reproduced() {
    let parts: Value = serde_json::from_slice(&std::fs::read(golden("parts/parts.json")).unwrap()).unwrap();
    let bytes = std::fs::read(golden("parts/parts.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let seed = parts["seed"].as_u64().unwrap();
    let entries = parts["parts"].as_object().unwrap().iter().filter(|(name, _)| name.starts_with("scheduler/"));
    let mut checked = 0;
    for (name, entry) in entries {
        let config = SchedulerConfig::from_class(entry["cls"].as_str().unwrap(), &entry["config"].to_string()).unwrap();
        for steps in [4, 20, 50] {
            let run = run_formula_model(&config, steps, seed).unwrap();
            let timesteps = tensor(&file, &format!("{name}/{steps}/timesteps")).unwrap();
            assert!(relative_difference(&run.timesteps, &timesteps) <= TABLE_TOLERANCE, "{name}/{steps} timesteps");
            let sigmas = tensor(&file, &format!("{name}/{steps}/sigmas"));
            assert_eq!(run.sigmas.is_some(), sigmas.is_some(), "{name}/{steps} sigmas");
            if let (Some(found), Some(expected)) = (&run.sigmas, &sigmas) {
                assert!(relative_difference(found, expected) <= TABLE_TOLERANCE, "{name}/{steps} sigmas");
            }
            let recorded = recorded_evaluations(steps, run.latents.len());
            let found = recorded.iter().flat_map(|step| &run.latents[*step]).map(|value| f64::from(*value));
            let expected = tensor(&file, &format!("{name}/{steps}/latents")).unwrap();
            let difference = relative_difference(&found.collect::<Vec<_>>(), &expected);
            assert!(difference <= LATENTS_TOLERANCE, "{name}/{steps} latents differ by {difference:e}");
            checked += 1;
        }
    }
    assert_eq!(checked, 57, "runs in the golden parts");
}

#[test]
fn every_variant_that_diffusers_computed_is_reproduced() {
    let file: Value = serde_json::from_slice(&std::fs::read(golden("noise_scheduler_variants.json")).unwrap()).unwrap();
    let seed = file["seed"].as_u64().unwrap();
    for variant in file["variants"].as_array().unwrap() {
        let name = format!("{} {}", variant["cls"], variant["note"]);
        let class = variant["cls"].as_str().unwrap();
        let config = SchedulerConfig::from_class(class, &variant["config"].to_string()).unwrap();
        let run = run_formula_model(&config, variant["steps"].as_u64().unwrap() as usize, seed).unwrap();
        let timesteps = numbers(&variant["timesteps"]).unwrap();
        assert!(relative_difference(&run.timesteps, &timesteps) <= TABLE_TOLERANCE, "{name} timesteps");
        let sigmas = numbers(&variant["sigmas"]);
        assert_eq!(run.sigmas.is_some(), sigmas.is_some(), "{name} sigmas");
        if let (Some(found), Some(expected)) = (&run.sigmas, &sigmas) {
            assert!(relative_difference(found, expected) <= TABLE_TOLERANCE, "{name} sigmas");
        }
        let found: Vec<f64> = run.latents.last().unwrap().iter().map(|value| f64::from(*value)).collect();
        let difference = relative_difference(&found, &numbers(&variant["final_latents"]).unwrap());
        assert!(difference <= LATENTS_TOLERANCE, "{name} latents differ by {difference:e}");
    }
}

/// Makes the steps from `from` on, on a denoiser that needs no weights.
fn run_from(scheduler: &mut NoiseScheduler, from: usize, latents: &mut [f32]) {
    let mut scaled = Vec::new();
    for step in from..scheduler.evaluations() {
        scheduler.scale_model_input(step, latents, &mut scaled);
        let noise_prediction: Vec<f32> = scaled.iter().map(|x| 0.6 * x + 0.2 * (3.0 * x).sin()).collect();
        scheduler.step(step, &noise_prediction, latents);
    }
}

fn assert_resumes_at_every_step(config: &SchedulerConfig, steps: usize) {
    let mut scheduler = NoiseScheduler::new(config, steps, 5).unwrap();
    let mut latents = standard_normal(5, 300);
    let mut saved = Vec::new();
    for step in 0..scheduler.evaluations() {
        saved.push((serde_json::to_string(&scheduler.state()).unwrap(), latents.clone()));
        let noise_prediction: Vec<f32> = latents.iter().map(|x| 0.5 * x.cos()).collect();
        scheduler.step(step, &noise_prediction, &mut latents);
    }
    for (step, (state, mut resumed)) in saved.into_iter().enumerate() {
        let mut other = NoiseScheduler::new(config, steps, 5).unwrap();
        let state: SchedulerState = serde_json::from_str(&state).unwrap();
        assert_eq!(state.next_step(), step);
        other.restore(state).unwrap();
        for step in step..other.evaluations() {
            let noise_prediction: Vec<f32> = resumed.iter().map(|x| 0.5 * x.cos()).collect();
            other.step(step, &noise_prediction, &mut resumed);
        }
        assert_eq!(resumed, latents, "{:?} resumed at step {step}", config.kind());
        assert_eq!(other.state(), scheduler.state());
    }
}

#[test]
fn every_kind_resumes_at_every_step_bit_for_bit() {
    for kind in SchedulerKind::ALL {
        for steps in [1, 2, 3, 7, 16] {
            assert_resumes_at_every_step(&stable_diffusion(kind), steps);
        }
    }
}

#[test]
fn variants_of_the_methods_resume_at_every_step_bit_for_bit() {
    let variants = [
        r#"{"_class_name": "PNDMScheduler", "skip_prk_steps": false}"#,
        r#"{"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min"}"#,
        r#"{"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "disable_corrector": [0, 2]}"#,
        r#"{"_class_name": "HeunDiscreteScheduler", "clip_sample": true}"#,
        r#"{"_class_name": "DDIMScheduler"}"#,
    ];
    for variant in variants {
        assert_resumes_at_every_step(&SchedulerConfig::from_json(variant).unwrap(), 17);
    }
}

#[test]
fn state_of_another_job_is_refused() {
    let make = |kind, steps| NoiseScheduler::new(&stable_diffusion(kind), steps, 1).unwrap();
    let mut lms = make(SchedulerKind::Lms, 8);
    let mut latents = vec![0.5; 16];
    run_from(&mut lms, 0, &mut latents);
    for mut other in [make(SchedulerKind::Euler, 8), make(SchedulerKind::Lms, 9)] {
        let error = other.restore(lms.state()).unwrap_err();
        assert!(matches!(error, SchedulerError::StateMismatch { .. }), "{error}");
    }
    let broken = serde_json::to_string(&lms.state()).unwrap().replace("\"next_step\":8", "\"next_step\":3");
    let error = make(SchedulerKind::Lms, 8).restore(serde_json::from_str(&broken).unwrap()).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    let broken = serde_json::to_string(&lms.state()).unwrap().replace("\"next_step\":8", "\"next_step\":80");
    assert!(make(SchedulerKind::Lms, 8).restore(serde_json::from_str(&broken).unwrap()).is_err());
}

#[test]
fn euler_ancestral_is_its_formula_with_the_noise_of_its_seed() {
    let json = r#"{"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}"#;
    let config = SchedulerConfig::from_json(json).unwrap();
    let step_of = |seed| {
        let mut scheduler = NoiseScheduler::new(&config, 10, seed).unwrap();
        let mut latents = standard_normal(1, 64);
        scheduler.step(0, &[0.25; 64], &mut latents);
        latents
    };
    assert_eq!(step_of(7), step_of(7), "the same seed");
    let scheduler = NoiseScheduler::new(&config, 10, 7).unwrap();
    let [from, to] = [0, 1].map(|index| scheduler.sigmas().unwrap()[index]);
    let up = (to.powi(2) * (from.powi(2) - to.powi(2)) / from.powi(2)).sqrt();
    let down = (to.powi(2) - up.powi(2)).sqrt();
    // Without its noise the step is Euler's to the lower sigma, whatever the seed.
    for seed in [7, 8] {
        let latents = standard_normal(1, 64);
        let found = step_of(seed);
        let noise = found.iter().zip(&latents).map(|(found, x)| (f64::from(found - x) - (down - from) * 0.25) / up);
        let noise: Vec<f64> = noise.collect();
        let power = noise.iter().map(|value| value * value).sum::<f64>() / 64.0;
        assert!((0.5..1.7).contains(&power), "noise of power {power}");
    }
    assert_ne!(step_of(7), step_of(8), "another seed");
}

#[test]
fn noise_drawn_ahead_is_the_noise_of_its_step() {
    let config = stable_diffusion(SchedulerKind::EulerAncestral);
    let [mut prompt, mut ahead] = [(); 2].map(|()| NoiseScheduler::new(&config, 6, 9).unwrap());
    let [mut expected, mut found] = [(); 2].map(|()| standard_normal(1, 40));
    for step in 0..6 {
        let noise_prediction = vec![0.1; 40];
        // Drawn twice, for another number of elements, and not at all: none of that may show.
        (0..step % 3).for_each(|_| ahead.prepare(40));
        if step == 4 {
            ahead.prepare(39);
        }
        prompt.step(step, &noise_prediction, &mut expected);
        ahead.step(step, &noise_prediction, &mut found);
        assert_eq!(found, expected, "step {step}");
    }
    ahead.prepare(40);
}

#[test]
fn euler_ancestral_keeps_the_variance_of_pure_noise() {
    let json = r#"{"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "epsilon"}"#;
    let mut scheduler = NoiseScheduler::new(&SchedulerConfig::from_json(json).unwrap(), 25, 3).unwrap();
    let sigmas = scheduler.sigmas().unwrap().to_vec();
    // The ideal denoiser of a black picture answers with the noise itself: the latents over their sigma.
    let mut latents: Vec<f32> = standard_normal(11, 40_000).iter().map(|x| x * sigmas[0] as f32).collect();
    for (step, sigma) in sigmas[..25].iter().enumerate() {
        let noise_prediction: Vec<f32> = latents.iter().map(|x| x / *sigma as f32).collect();
        scheduler.step(step, &noise_prediction, &mut latents);
        let power: f64 = latents.iter().map(|x| f64::from(*x).powi(2)).sum();
        let deviation = (power / latents.len() as f64).sqrt();
        let expected = sigmas[step + 1];
        assert!((deviation - expected).abs() <= 0.02 * expected + 1e-6, "step {step}: {deviation} is not {expected}");
    }
}

#[test]
fn evaluations_follow_from_the_method() {
    for (kind, steps) in SchedulerKind::ALL.into_iter().flat_map(|kind| [2, 3, 10, 50].map(|steps| (kind, steps))) {
        let expected = match kind {
            SchedulerKind::Heun => 2 * steps - 1,
            SchedulerKind::Pndm => steps + 1,
            _ => steps,
        };
        let scheduler = NoiseScheduler::new(&stable_diffusion(kind), steps, 0).unwrap();
        assert_eq!(scheduler.evaluations(), expected, "{kind} in {steps}");
    }
}

#[test]
fn one_step_is_one_evaluation_for_every_kind() {
    for kind in SchedulerKind::ALL {
        let mut scheduler = NoiseScheduler::new(&stable_diffusion(kind), 1, 0).unwrap();
        assert_eq!(scheduler.evaluations(), 1, "{kind}");
        let mut latents = standard_normal(1, 16);
        run_from(&mut scheduler, 0, &mut latents);
        assert!(latents.iter().all(|value| value.is_finite()), "{kind}");
    }
}

#[test]
fn latents_are_scaled_where_the_method_divides_them_by_their_signal() {
    let latents = [1.0, -2.0];
    let mut scaled = vec![9.0; 7];
    let ddim = NoiseScheduler::new(&stable_diffusion(SchedulerKind::Ddim), 10, 0).unwrap();
    ddim.scale_model_input(0, &latents, &mut scaled);
    assert_eq!(scaled, latents);
    let euler = NoiseScheduler::new(&stable_diffusion(SchedulerKind::Euler), 10, 0).unwrap();
    euler.scale_model_input(0, &latents, &mut scaled);
    let sigma = euler.sigmas().unwrap()[0];
    assert_eq!(scaled.len(), 2);
    assert!((f64::from(scaled[1]) + 2.0 / (sigma * sigma + 1.0).sqrt()).abs() < 1e-6);
}
