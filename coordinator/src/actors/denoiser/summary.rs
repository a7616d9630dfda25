//! What a finished job's summary says, from the plan's prediction and the ranks' reports.

use std::collections::BTreeMap;

use asyncdiff_common::system;
use asyncdiff_common::wire::RankReport;
use asyncdiff_plan::{Choice, Edge, Lane, LayerId};

use super::recorder::Recorded;
use crate::job::JobSummary;

/// Sums a job up. `reports` are by rank; a rank that could not report any more counts as silent.
pub(super) fn summarize(
    choice: &Choice,
    workers: Vec<String>,
    reports: &[RankReport],
    recorded: &Recorded,
    total_seconds: f64,
) -> JobSummary {
    let schedule = &choice.placed.plan.schedule;
    // Ranks report on the newest plan, so that what is per step is per step of that.
    let planned_steps = f64::from(schedule.remaining_steps().max(1));
    let sent: u64 = reports.iter().map(|report| report.hidden_state_bytes_sent).sum();
    let by_nccl: u64 = reports.iter().map(|report| report.nccl_bytes_sent).sum();
    JobSummary {
        plan: choice.reason.clone(),
        workers,
        components: choice.placed.plan.partition.components() as u16,
        stride: schedule.stride.get(),
        warm_up: schedule.warm_up_steps().saturating_sub(schedule.first.0),
        steps: schedule.steps.get(),
        denoise_seconds: recorded.denoise_seconds,
        total_seconds,
        predicted_seconds: choice.prediction.seconds,
        alone_seconds: alone_seconds(choice, reports, recorded),
        bytes_per_step: sent as f64 / planned_steps,
        nccl_bytes_per_step: by_nccl as f64 / planned_steps,
        predicted_bytes_per_step: choice.prediction.bytes_per_step,
        encoding: encoding(&choice.prediction.edges),
        busy: reports.iter().map(|report| report.busy_seconds / recorded.plan_seconds).collect(),
        resident_bytes: reports.iter().map(|report| report.resident_bytes).collect(),
        peak_memory_bytes: reports.iter().map(|report| report.peak_memory_bytes).collect(),
        gpu_bytes: reports.iter().map(|report| report.gpu_bytes).collect(),
        coordinator_peak_memory_bytes: system::peak_memory_bytes(),
        turnaround_seconds: recorded.turnaround.median_seconds,
        turnaround_p99_seconds: recorded.turnaround.p99_seconds,
        turnaround_max_seconds: recorded.turnaround.max_seconds,
    }
}

/// How hidden states travel: one word where all edges have the same.
fn encoding(edges: &[Edge]) -> String {
    let Some(first) = edges.first() else { return "nothing travels".to_owned() };
    if edges.iter().all(|edge| edge.encoding == first.encoding) {
        return first.encoding.to_string();
    }
    let named = edges.iter().map(|edge| format!("{} → {} {}", edge.from, edge.to, edge.encoding));
    named.collect::<Vec<_>>().join(", ")
}

/// What one worker alone would take: every layer once per step, as long as it took here, and the coordinator's part.
fn alone_seconds(choice: &Choice, reports: &[RankReport], recorded: &Recorded) -> f64 {
    let mut by_layer: BTreeMap<LayerId, (f64, u32)> = BTreeMap::new();
    for (layer, seconds) in reports.iter().flat_map(|report| &report.layer_seconds) {
        let (sum, count) = by_layer.entry(*layer).or_default();
        *sum += seconds;
        *count += 1;
    }
    if by_layer.is_empty() {
        return choice.prediction.alone_seconds;
    }
    let step: f64 = by_layer.values().map(|(sum, count)| sum / f64::from(*count)).sum();
    let schedule = &choice.placed.plan.schedule;
    let runs_per_step = if computes_whole_batches(choice) { 1.0 } else { 2.0 };
    f64::from(schedule.steps.get()) * (step * runs_per_step + recorded.turnaround.median_seconds)
}

/// Whether most runs are of the whole batch, so that a layer's reported time is that of all rows; else it is that of one guidance half.
pub(super) fn computes_whole_batches(choice: &Choice) -> bool {
    let schedule = &choice.placed.plan.schedule;
    let only_warm_up = schedule.warm_up_steps() == schedule.steps.get();
    let lanes = if only_warm_up { schedule.warm_up_lanes() } else { schedule.lanes() };
    lanes == [Lane::Whole]
}
