//! The resident memory of workers while they denoise, and what of it is neither weights nor activations.

use std::time::Duration;

use asyncdiff_common::system::ResidentMemory;
use asyncdiff_plan::Rank;
use serde::Serialize;

use crate::bench::jobs::make;
use crate::bench::median::median;
use crate::cluster::PlannedJob;
use crate::job::JobSummary;
use crate::job_spec::JobSpec;
use crate::local_cluster::LocalCluster;

/// Between two looks at the processes: many in a job, and each takes microseconds.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// The resident memory of one worker, in bytes: medians of what it was during a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerMemory {
    /// Its own: heap and stacks.
    pub anonymous_bytes: u64,
    /// Of the program's file.
    pub file_bytes: u64,
    /// What it shares with the workers that it exchanges tensors with.
    pub shared_bytes: u64,
    /// The weights of its components, as they are held.
    pub weight_bytes: u64,
    /// What its runs hold at most, as planned.
    pub activation_bytes: u64,
    /// Resident and neither of the two; negative where runs hold less than planned.
    pub beyond_bytes: i64,
}

/// Makes a job that the workers have made before, and looks at them meanwhile.
pub(super) async fn sample(
    local: &LocalCluster,
    plan: &PlannedJob,
    spec: JobSpec,
) -> anyhow::Result<Vec<WorkerMemory>> {
    let mut samples: Vec<Vec<ResidentMemory>> = Vec::new();
    let mut looks = tokio::time::interval(SAMPLE_EVERY);
    let making = make(local, spec);
    tokio::pin!(making);
    let summary: JobSummary = loop {
        tokio::select! {
            made = &mut making => break made?,
            _ = looks.tick() => samples.extend(look(local, &plan.workers)),
        }
    };
    Ok(sum_up(&samples, plan, &summary))
}

/// All workers, by rank; `None` while one of them is not there.
fn look(local: &LocalCluster, workers: &[String]) -> Option<Vec<ResidentMemory>> {
    let of = |name: &String| ResidentMemory::of_process(*local.process_ids().get(name)?);
    workers.iter().map(of).collect()
}

fn sum_up(samples: &[Vec<ResidentMemory>], plan: &PlannedJob, summary: &JobSummary) -> Vec<WorkerMemory> {
    let worker = |(rank, &weight_bytes): (Rank, &u64)| {
        let typical = |of: fn(&ResidentMemory) -> u64| {
            let figures = samples.iter().filter_map(|look| Some(of(look.get(rank.index())?) as f64));
            median(figures.collect()).map(|bytes| bytes as u64)
        };
        let memory = ResidentMemory {
            anonymous_bytes: typical(|memory| memory.anonymous_bytes)?,
            file_bytes: typical(|memory| memory.file_bytes)?,
            shared_bytes: typical(|memory| memory.shared_bytes)?,
        };
        Some(WorkerMemory::new(memory, weight_bytes, activation_bytes(plan, rank)))
    };
    plan.choice.placed.ranks().zip(&summary.resident_bytes).filter_map(worker).collect()
}

/// What runs hold at a time, at most: of a step and of the step before, and what the layer that is computed needs.
fn activation_bytes(plan: &PlannedJob, rank: Rank) -> u64 {
    let components = plan.choice.placed.part(rank).components;
    let held: u64 = components.iter().map(|(_, layers)| plan.program.held_row_bytes(layers)).sum();
    let layers: Vec<_> = components.into_iter().flat_map(|(_, layers)| layers).collect();
    let layers = plan.program.with_shared(&layers).into_iter();
    let working = layers.map(|layer| plan.costs[rank.index()][layer.index()].working_bytes).max();
    2 * u64::from(plan.rows) * held + working.unwrap_or_default()
}

impl WorkerMemory {
    fn new(memory: ResidentMemory, weight_bytes: u64, activation_bytes: u64) -> Self {
        let ResidentMemory { anonymous_bytes, file_bytes, shared_bytes } = memory;
        let beyond_bytes = memory.bytes() as i64 - weight_bytes as i64 - activation_bytes as i64;
        Self { anonymous_bytes, file_bytes, shared_bytes, weight_bytes, activation_bytes, beyond_bytes }
    }

    /// All that is resident, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.anonymous_bytes + self.file_bytes + self.shared_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_weights_and_activations_may_be_negative() {
        let memory = ResidentMemory { anonymous_bytes: 50, file_bytes: 20, shared_bytes: 10 };
        let found = WorkerMemory::new(memory, 40, 10);
        assert_eq!((found.bytes(), found.beyond_bytes), (80, 30));
        assert_eq!(WorkerMemory::new(memory, 40, 60).beyond_bytes, -20);
    }
}
