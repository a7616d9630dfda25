//! Plans that compute the same mathematics: the sequential plan's bits, or its values but for the rounding of another batch.

use asyncdiff_coordinator::denoise::Denoised;
use asyncdiff_coordinator::run_in_process;
use asyncdiff_plan::{TimeShift, Wishes};

use super::support::{tensor_job, tiny_store, wishes};

const STEPS: u32 = 5;

/// Products over one row instead of two add in another order: rounding of f32, which guidance and the steps magnify.
const TOLERANCE: f32 = 1e-5;

fn denoise(guidance_scale: f64, wishes: Wishes) -> Denoised {
    run_in_process(&tiny_store(), tensor_job(STEPS, guidance_scale, wishes), 3).unwrap()
}

fn sequential() -> Wishes {
    Wishes { components: Some(1), warm_up: Some(STEPS), split_guidance: Some(false), ..Wishes::default() }
}

/// The largest difference, relative to the largest value.
fn difference(one: &Denoised, other: &Denoised) -> f32 {
    let largest = one.latents.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let pairs = one.latents.iter().zip(&other.latents);
    pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

#[test]
fn a_warm_up_over_all_steps_gives_the_sequential_bits() {
    // Without guidance there are no halves, and so no micro-batches.
    let alone = denoise(1.0, sequential());
    for components in [2, 3] {
        assert_eq!(denoise(1.0, wishes(components, 1, STEPS, TimeShift::Off)), alone);
    }
}

#[test]
fn micro_batches_in_the_warm_up_change_no_more_than_rounding() {
    let (batched, alone) = (denoise(7.5, wishes(3, 1, STEPS, TimeShift::Off)), denoise(7.5, sequential()));
    assert!(difference(&batched, &alone) <= TOLERANCE, "{}", difference(&batched, &alone));
}

#[test]
fn guidance_lanes_change_no_more_than_rounding() {
    let lanes = Wishes { split_guidance: Some(true), ..sequential() };
    let difference = difference(&denoise(7.5, lanes), &denoise(7.5, sequential()));
    assert!(difference <= TOLERANCE, "{difference}");
}

#[test]
fn a_short_warm_up_is_not_the_sequential_plan() {
    let stale = denoise(7.5, wishes(3, 1, 1, TimeShift::Off));
    assert!(difference(&stale, &denoise(7.5, sequential())) > 1e-3);
}
