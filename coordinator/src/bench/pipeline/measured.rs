//! What was measured of one model in one type, before it is summed up.

use asyncdiff_plan::Rank;

use super::memory::WorkerMemory;
use super::report::WorkerWeights;
use crate::bench::device::TorchResult;
use crate::cluster::PlannedJob;
use crate::job::JobSummary;

/// PyTorch's times with a worker's threads, and with twice as many.
pub(super) type TorchTimes = [TorchResult; 2];

/// What was measured.
#[derive(Default)]
pub(super) struct Measured {
    pub(super) repeats: Vec<Repeat>,
    /// By worker.
    pub(super) weights: Vec<WorkerWeights>,
    /// By worker, of the two.
    pub(super) memory: Vec<WorkerMemory>,
}

/// Everything once, in turn.
pub(super) struct Repeat {
    /// How one worker's job went.
    pub(super) one: JobSummary,
    /// How the two workers' job went.
    pub(super) two: JobSummary,
    /// How the job of one worker with twice the threads went.
    pub(super) wide: JobSummary,
    /// Seconds of the slower of two workers that each make a picture of their own at the same time.
    pub(super) copies_seconds: f64,
    /// PyTorch's times, if it was there.
    pub(super) torch: Option<TorchTimes>,
}

impl Repeat {
    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        let torch = self.torch.as_ref().map_or(String::new(), |[narrow, wide]| {
            format!(", PyTorch {:.1} and {:.1} ms per step", narrow.milliseconds, wide.milliseconds)
        });
        format!(
            "one worker {:.2} s, two workers {:.2} s, one with twice the threads {:.2} s, two copies {:.2} s{torch}",
            self.one.denoise_seconds, self.two.denoise_seconds, self.wide.denoise_seconds, self.copies_seconds
        )
    }
}

/// What each rank holds, against what the plan says of its layers in the form that kernels hold them in.
pub(super) fn worker_weights(plan: &PlannedJob, repeats: &[Repeat]) -> Vec<WorkerWeights> {
    let placed = &plan.choice.placed;
    let resident = repeats.last().map(|repeat| repeat.two.resident_bytes.clone()).unwrap_or_default();
    let share = |rank: Rank| {
        let layers: Vec<_> = placed.part(rank).components.into_iter().flat_map(|(_, layers)| layers).collect();
        let layers = plan.program.with_shared(&layers).into_iter();
        layers.map(|layer| plan.costs[rank.index()][layer.index()].resident_bytes).sum()
    };
    let pair = |(rank, resident_bytes)| WorkerWeights { share_bytes: share(rank), resident_bytes };
    placed.ranks().zip(resident).map(pair).collect()
}
