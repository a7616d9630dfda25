//! A number of workers that compute nothing, and what the coordinator takes between their noise predictions and the next latents.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use anyhow::Context;
use asyncdiff_common::system;
use asyncdiff_plan::Wishes;

use super::CoordinatorBench;
use super::report::TurnaroundReport;
use crate::bench::jobs::{STOP_WITHIN, make};
use crate::bench::median::median;
use crate::bench::model::{self, BenchModel};
use crate::job::JobSummary;
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::model_store::ModelStore;
use crate::worker_processes::Simulation;

/// Steps of the job that everything but steps is counted by: what it takes is subtracted from what the long ones take.
const SHORT_STEPS: u32 = 2;

/// Measures with a number of workers, all of which have a component, as far as there are layers.
pub(super) async fn measure(bench: &CoordinatorBench, workers: NonZeroU16) -> anyhow::Result<TurnaroundReport> {
    let store = Arc::new(model::thin_store()?);
    let (components, rate) = split(bench, &store, workers)?;
    let wishes = Wishes {
        components: Some(components),
        stride: Some(NonZeroU32::MIN),
        warm_up: Some(1),
        split_guidance: Some(false),
        ..Wishes::default()
    };
    let local = LocalCluster::start(LocalClusterConfig {
        simulation: Some(Simulation { flops_per_second: rate, link_limit: None }),
        ..LocalClusterConfig::new(store, workers.get().into())
    })
    .await?;
    let job = |steps: NonZeroU32| {
        let spec = BenchModel::Unet.job(BenchModel::Unet.settings(steps, &wishes));
        async {
            let before = system::processor_time();
            let summary = make(&local, spec).await?;
            anyhow::Ok((summary, (system::processor_time() - before).as_secs_f64()))
        }
    };
    let short = NonZeroU32::new(SHORT_STEPS).unwrap_or(NonZeroU32::MIN).min(bench.steps);
    // The first job measures layers and links, and opens the links that the plan needs.
    job(short).await?;
    let (_, beside_steps) = job(short).await?;
    let mut jobs = Vec::new();
    for _repeat in 0..bench.repeats.get() {
        jobs.push(job(bench.steps).await?);
    }
    local.shutdown(STOP_WITHIN).await;
    sum_up(workers, &jobs, (short, beside_steps)).context("nothing was measured")
}

/// Into how many components the denoiser is split, and the workers' operations per second at which the mean component takes as long as is said.
fn split(bench: &CoordinatorBench, store: &ModelStore, workers: NonZeroU16) -> anyhow::Result<(u16, f64)> {
    let setup = store.planning_setup(&BenchModel::Unet.settings(bench.steps, &Wishes::default()))?;
    let program = &setup.program.program;
    let components = program.owned_layers().count().min(workers.get().into()) as u16;
    let flops: f64 = program.layers.iter().map(|layer| layer.flops as f64).sum();
    let rows = f64::from(setup.settings.rows());
    Ok((components, rows * flops / f64::from(components) / bench.pace.as_secs_f64()))
}

/// `jobs`: with the processor time of this process; `beside_steps`: the same of a job of few steps.
fn sum_up(
    workers: NonZeroU16,
    jobs: &[(JobSummary, f64)],
    (few_steps, beside_steps): (NonZeroU32, f64),
) -> Option<TurnaroundReport> {
    let figure = |of: fn(&JobSummary) -> f64| median(jobs.iter().map(|(job, _)| of(job)).collect());
    let (last, _) = jobs.last()?;
    let processor = median(jobs.iter().map(|(_, seconds)| *seconds).collect())?;
    let more_steps = f64::from(last.steps) - f64::from(few_steps.get());
    let mut peaks: Vec<u64> = last.peak_memory_bytes.clone();
    peaks.sort_unstable();
    Some(TurnaroundReport {
        workers: workers.get(),
        components: last.components,
        p50_seconds: figure(|job| job.turnaround_seconds)?,
        p99_seconds: figure(|job| job.turnaround_p99_seconds)?,
        max_seconds: jobs.iter().map(|(job, _)| job.turnaround_max_seconds).fold(0.0, f64::max),
        step_seconds: figure(|job| job.denoise_seconds / f64::from(job.steps))?,
        processor_seconds_per_step: (more_steps > 0.0).then(|| (processor - beside_steps) / more_steps),
        coordinator_peak_memory_bytes: last.coordinator_peak_memory_bytes,
        worker_peak_memory_bytes: peaks.last().copied()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(p99: f64, processor: f64) -> (JobSummary, f64) {
        let summary = JobSummary {
            steps: 102,
            denoise_seconds: 10.2,
            turnaround_seconds: p99 / 2.0,
            turnaround_p99_seconds: p99,
            turnaround_max_seconds: 10.0 * p99,
            peak_memory_bytes: vec![5, 7, 6],
            ..JobSummary::default()
        };
        (summary, processor)
    }

    #[test]
    fn the_longest_turnaround_is_that_of_all_jobs_and_the_rest_are_medians() {
        let workers = NonZeroU16::new(3).unwrap();
        let jobs = [job(0.003, 1.5), job(0.001, 1.2), job(0.002, 1.3)];
        let found = sum_up(workers, &jobs, (NonZeroU32::new(2).unwrap(), 0.3)).unwrap();
        assert_eq!((found.p50_seconds, found.p99_seconds, found.max_seconds), (0.001, 0.002, 0.03));
        assert!((found.step_seconds - 0.1).abs() < 1e-9);
        assert!((found.processor_seconds_per_step.unwrap() - 0.01).abs() < 1e-9);
        assert_eq!(found.worker_peak_memory_bytes, 7);
    }
}
