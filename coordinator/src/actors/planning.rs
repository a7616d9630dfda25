//! From settings and workers to a plan: measure what is not known yet, then let the policy choose.

use std::sync::Arc;

use asyncdiff_common::wire::{LayerCost, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Choice, Device, LayerMemory, LayerSeconds, Links, Situation, StepIndex, Wishes, choose};
use futures_util::future::try_join_all;

use super::Limits;
use super::links::{job_links, measure_used};
use super::session::WorkerHandle;
use crate::failure::JobFailed;
use crate::model_store::DenoiseSetup;

/// Devices whose measured times differ by less count as equally fast: two measurements of one device differ by as much.
const EQUALLY_FAST: f64 = 1.1;

/// How often a plan is made again because a link that it uses is worse than was assumed. Each time fewer links are unknown; the last plan is carried
/// out as it is.
const PLANNED_AGAIN: usize = 3;

/// What the layers cost at one worker.
#[derive(Clone)]
pub(crate) struct Measured {
    /// For all rows of the batch.
    pub(crate) whole: Arc<[LayerCost]>,
    /// For one guidance half; without guidance the same as `whole`.
    half: Arc<[LayerCost]>,
}

/// A chosen plan, and what it was chosen by.
pub(crate) struct Planned {
    pub(crate) choice: Choice,
    pub(crate) links: Links,
}

/// Chooses a plan for workers, one rank each in their order, of the steps from `first` on. Links that it uses and that were only assumed are
/// measured; if one is much worse, it is chosen again.
pub(crate) async fn make_plan(
    workers: &[WorkerHandle],
    setup: &DenoiseSetup,
    wishes: &Wishes,
    limits: &Limits,
    first: StepIndex,
) -> Result<Planned, JobFailed> {
    let measured = measure_all(workers, setup, limits).await?;
    let mut planned = plan_once(workers, setup, wishes, &measured, first).await?;
    for _again in 0..PLANNED_AGAIN {
        if !measure_used(workers, &planned.choice.placed, &planned.links).await? {
            break;
        }
        planned = plan_once(workers, setup, wishes, &measured, first).await?;
    }
    Ok(planned)
}

async fn plan_once(
    workers: &[WorkerHandle],
    setup: &DenoiseSetup,
    wishes: &Wishes,
    measured: &[Measured],
    first: StepIndex,
) -> Result<Planned, JobFailed> {
    let (links, warnings) = job_links(workers, wishes).await?;
    let memory: Vec<u64> = workers.iter().map(WorkerHandle::memory_bytes).collect();
    let turnarounds: f64 = workers.iter().map(WorkerHandle::turnaround_seconds).sum();
    let turnaround_seconds = turnarounds / workers.len().max(1) as f64;
    let (setup, wishes, priced) = (setup.clone(), wishes.clone(), links.clone());
    let (measured, now) = (measured.to_vec(), tokio::time::Instant::now().into_std());
    let choosing = tokio::task::spawn_blocking(move || {
        let Compared { whole, half, memory: layer_memory, speeds } = compare(&measured);
        let devices = speeds.iter().zip(memory).map(|(&speed, memory_bytes)| Device { speed, memory_bytes });
        let situation = Situation {
            program: &setup.program.program,
            steps: setup.evaluations,
            first,
            guidance_on: setup.settings.guidance_scale.is_some(),
            rows: setup.settings.rows(),
            layer_seconds: LayerSeconds { whole: &whole, half: &half },
            layer_memory: &layer_memory,
            devices: &devices.collect::<Vec<_>>(),
            links: &priced,
            turnaround_seconds,
            now,
        };
        choose(&wishes, &situation)
    });
    match choosing.await {
        Ok(choice) => {
            let mut choice = choice?;
            choice.notes.extend(warnings);
            Ok(Planned { choice, links })
        }
        Err(error) => Err(JobFailed::Bug { what: asyncdiff_common::owned_task::panic_message(error) }),
    }
}

/// What each layer costs at each worker.
pub(crate) async fn measure_all(
    workers: &[WorkerHandle],
    setup: &DenoiseSetup,
    limits: &Limits,
) -> Result<Vec<Measured>, JobFailed> {
    let rows = setup.settings.rows();
    let half_rows = if setup.settings.guidance_scale.is_some() { rows / 2 } else { rows };
    // One after the other at each worker: it has one device, and two measurements at a time would disturb each other.
    try_join_all(workers.iter().map(|worker| async move {
        let whole = measure(worker, setup, rows, limits).await?;
        let half = measure(worker, setup, half_rows, limits).await?;
        Ok(Measured { whole, half })
    }))
    .await
}

/// What each layer costs at a worker, measured once per session, picture size and batch.
async fn measure(
    worker: &WorkerHandle,
    setup: &DenoiseSetup,
    rows: u32,
    limits: &Limits,
) -> Result<Arc<[LayerCost]>, JobFailed> {
    if let Some(measured) = worker.measured(&setup.denoiser, rows) {
        return Ok(measured);
    }
    let what = "measuring its layers";
    let layers: Vec<_> = setup.program.program.layers().map(|(layer, _)| layer).collect();
    let expected = layers.len();
    let body = WorkerRequest::Measure { denoiser: setup.denoiser.clone(), rows, layers };
    match worker.request(what, body, limits.measure_within).await? {
        WorkerReply::Measured { layers } if layers.len() == expected && layers.iter().all(|l| l.seconds >= 0.0) => {
            let layers: Arc<[LayerCost]> = layers.into();
            worker.keep_measured(setup.denoiser.clone(), rows, Arc::clone(&layers));
            Ok(layers)
        }
        _ => Err(JobFailed::UnexpectedReply { worker: worker.name().to_owned(), what }),
    }
}

/// What workers measured, as one table.
struct Compared {
    /// Seconds of each layer on a device of speed 1.
    whole: Vec<f64>,
    /// The same for one guidance half.
    half: Vec<f64>,
    memory: Vec<LayerMemory>,
    /// By worker.
    speeds: Vec<f64>,
}

fn compare(measured: &[Measured]) -> Compared {
    let total =
        |measured: &Measured| measured.whole.iter().map(|layer| layer.seconds).sum::<f64>().max(f64::MIN_POSITIVE);
    let totals: Vec<f64> = measured.iter().map(total).collect();
    let fastest = totals.iter().copied().fold(f64::INFINITY, f64::min);
    let equal = totals.iter().all(|&total| total <= fastest * EQUALLY_FAST);
    let speeds: Vec<f64> = totals.iter().map(|&total| if equal { 1.0 } else { fastest / total }).collect();
    let mean = |layers_of: fn(&Measured) -> &Arc<[LayerCost]>| -> Vec<f64> {
        let layers = measured.first().map_or(0, |measured| layers_of(measured).len());
        let mean = |layer: usize| {
            let at_speed_one =
                measured.iter().zip(&speeds).map(|(measured, speed)| layers_of(measured)[layer].seconds * speed);
            at_speed_one.sum::<f64>() / measured.len() as f64
        };
        (0..layers).map(mean).collect()
    };
    let (whole, half) = (mean(|measured| &measured.whole), mean(|measured| &measured.half));
    // Kernels may differ between CPUs, and so the form that weights are held in: the largest counts.
    let largest = |layer: usize| {
        let costs = || measured.iter().map(|measured| measured.whole[layer]);
        LayerMemory {
            resident_bytes: costs().map(|cost| cost.resident_bytes).max().unwrap_or(0),
            working_bytes: costs().map(|cost| cost.working_bytes).max().unwrap_or(0),
        }
    };
    let memory = (0..whole.len()).map(largest).collect();
    Compared { whole, half, memory, speeds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(seconds: [f64; 2]) -> Measured {
        let costs = |share: f64| {
            seconds.map(|seconds| LayerCost { seconds: seconds * share, resident_bytes: 8, working_bytes: 0 }).into()
        };
        Measured { whole: costs(1.0), half: costs(0.75) }
    }

    #[test]
    fn devices_within_measurement_noise_are_equally_fast() {
        let found = compare(&[costs([1.0, 3.0]), costs([1.2, 3.0])]);
        assert_eq!(found.speeds, [1.0, 1.0]);
        assert_eq!(found.whole, [1.1, 3.0]);
    }

    #[test]
    fn a_slow_device_counts_by_its_speed() {
        let found = compare(&[costs([1.0, 3.0]), costs([2.0, 6.0])]);
        assert_eq!(found.speeds, [1.0, 0.5]);
        assert_eq!(found.whole, [1.0, 3.0]);
        assert_eq!(found.half, [0.75, 2.25]);
        assert_eq!(found.memory[1].resident_bytes, 8);
    }
}
