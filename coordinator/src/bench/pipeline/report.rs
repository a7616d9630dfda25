//! The figures of `bench pipeline`: what its JSON holds. `markdown.rs` draws them.

use asyncdiff_model::kernels::Format;
use serde::Serialize;

use super::measured::{Measured, Repeat};
use super::memory::WorkerMemory;
use crate::bench::BenchModel;
use crate::bench::device::{TorchResult, TorchVersion};
use crate::bench::median::median;
use crate::job::JobSummary;

/// What [`PipelineBench`](super::PipelineBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// How often everything was measured.
    pub repeats: usize,
    /// Threads of each worker.
    pub threads_per_worker: u32,
    /// Who was held against.
    pub torch: Option<TorchVersion>,
    /// By model and type.
    pub cases: Vec<CaseReport>,
}

/// One model in one type. Times are medians over the repeats, ratios medians of the repeats' ratios.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseReport {
    /// The model.
    pub case: &'static str,
    /// What its denoiser was computed in.
    pub dtype: &'static str,
    /// Steps of each job.
    pub steps: u32,
    /// Steps served by one round.
    pub stride: u32,
    /// Exact first steps.
    pub warm_up: u32,
    /// Seconds of one worker's denoising loop.
    pub one_worker_seconds: f64,
    /// Seconds of the two workers' denoising loop.
    pub two_workers_seconds: f64,
    /// Seconds of the denoising loop of one worker with twice the threads.
    pub twice_the_threads_seconds: f64,
    /// How many times as fast as one worker the two are.
    pub speed_up: f64,
    /// How many times as fast as one worker the one with twice the threads is.
    pub twice_the_threads_speed_up: f64,
    /// What the split allows: one divided by the part of the work that is not done side by side.
    pub ideal_speed_up: f64,
    /// What two workers reach together when each makes a picture of its own: 2 where they share nothing.
    pub independent_copies: f64,
    /// The speed-up as a part of what this machine allows: of the ideal times `independent_copies / 2`.
    pub of_reachable: f64,
    /// The planner's prediction for two workers, divided by what they took.
    pub predicted_over_measured: f64,
    /// The share of the time in which each of the two workers computed, and last that of one alone.
    pub busy: Vec<f64>,
    /// Seconds that the two computed together, divided by those that one alone did: more than 1 where caches and cores are shared.
    pub computing: f64,
    /// Bytes per step between the workers, counted by the links.
    pub bytes_per_step: f64,
    /// The plan's prediction, divided by that.
    pub predicted_bytes_over_counted: f64,
    /// Median seconds between a noise prediction's arrival at the coordinator and the next latents' departure.
    pub turnaround_seconds: f64,
    /// Weights by worker.
    pub weights: Vec<WorkerWeights>,
    /// Resident memory by worker while the two denoise, before they have made anything else.
    pub memory: Vec<WorkerMemory>,
    /// PyTorch with a worker's threads, and with twice as many; empty if it was not timed.
    pub torch: Vec<TorchComparison>,
}

/// What one worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerWeights {
    /// Bytes of the parameters of its layers.
    pub share_bytes: u64,
    /// Bytes of parameters that it holds.
    pub resident_bytes: u64,
}

/// PyTorch on the same denoiser.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TorchComparison {
    /// Its threads.
    pub threads: u32,
    /// What it takes for a step.
    pub milliseconds: f64,
    /// What two workers take for a step, divided by that.
    pub two_workers_ratio: f64,
    /// What one worker takes for a step, divided by that.
    pub one_worker_ratio: f64,
}

impl CaseReport {
    /// Sums up; `None` if nothing was measured. `busy`: how busy the ranks are predicted to be.
    pub(super) fn new(
        (model, format): (BenchModel, Format),
        threads: u32,
        measured: &Measured,
        busy: &[f64],
    ) -> Option<Self> {
        let repeats = &measured.repeats;
        let of = |figure: fn(&Repeat) -> f64| median(repeats.iter().map(figure).collect());
        let Repeat { one: alone, two: summary, .. } = repeats.last()?;
        let busy_seconds = |job: &JobSummary| job.denoise_seconds * job.busy.iter().sum::<f64>();
        let (steps, warm_up) = (f64::from(summary.steps), f64::from(summary.warm_up));
        let rounds = (steps - warm_up) * largest_share(busy) / f64::from(summary.stride);
        let ideal_speed_up = steps / (warm_up + rounds);
        let speed_up = of(|repeat| repeat.one.denoise_seconds / repeat.two.denoise_seconds)?;
        let independent_copies = of(|repeat| 2.0 * repeat.one.denoise_seconds / repeat.copies_seconds)?;
        let torch = [(0, threads), (1, 2 * threads)].map(|(index, threads)| compare(repeats, index, threads));
        Some(Self {
            case: model.name(),
            dtype: format.name(),
            steps: summary.steps,
            stride: summary.stride,
            warm_up: summary.warm_up,
            one_worker_seconds: of(|repeat| repeat.one.denoise_seconds)?,
            two_workers_seconds: of(|repeat| repeat.two.denoise_seconds)?,
            twice_the_threads_seconds: of(|repeat| repeat.wide.denoise_seconds)?,
            speed_up,
            twice_the_threads_speed_up: of(|repeat| repeat.one.denoise_seconds / repeat.wide.denoise_seconds)?,
            ideal_speed_up,
            independent_copies,
            of_reachable: speed_up / (ideal_speed_up * independent_copies / 2.0),
            predicted_over_measured: of(|repeat| repeat.two.predicted_seconds / repeat.two.denoise_seconds)?,
            busy: summary.busy.iter().copied().chain([alone.busy.iter().sum()]).collect(),
            computing: busy_seconds(summary) / busy_seconds(alone),
            bytes_per_step: of(|repeat| repeat.two.bytes_per_step)?,
            predicted_bytes_over_counted: of(|repeat| repeat.two.predicted_bytes_per_step / repeat.two.bytes_per_step)?,
            turnaround_seconds: of(|repeat| repeat.two.turnaround_seconds)?,
            weights: measured.weights.clone(),
            memory: measured.memory.clone(),
            torch: torch.into_iter().flatten().collect(),
        })
    }
}

/// With PyTorch of so many threads, the one at `index` of each repeat's; `None` if it was not timed.
fn compare(repeats: &[Repeat], index: usize, threads: u32) -> Option<TorchComparison> {
    let timed = || repeats.iter().filter_map(|repeat| Some((repeat, &repeat.torch.as_ref()?[index])));
    let step = |job: &JobSummary| 1e3 * job.denoise_seconds / f64::from(job.steps);
    let ratio = |ours: fn(&Repeat) -> &JobSummary| {
        median(timed().map(|(repeat, TorchResult { milliseconds, .. })| step(ours(repeat)) / milliseconds).collect())
    };
    Some(TorchComparison {
        threads,
        milliseconds: median(timed().map(|(_, torch)| torch.milliseconds).collect())?,
        two_workers_ratio: ratio(|repeat| &repeat.two)?,
        one_worker_ratio: ratio(|repeat| &repeat.one)?,
    })
}

/// The largest component's part of a step's work, from how busy the ranks are predicted to be.
fn largest_share(busy: &[f64]) -> f64 {
    let total: f64 = busy.iter().sum();
    busy.iter().copied().fold(0.0, f64::max) / total
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn job(denoise_seconds: f64) -> JobSummary {
        JobSummary {
            steps: 50,
            stride: 1,
            warm_up: 1,
            denoise_seconds,
            predicted_seconds: 2.0,
            bytes_per_step: 1000.0,
            predicted_bytes_per_step: 990.0,
            busy: vec![0.5, 0.5],
            ..JobSummary::default()
        }
    }

    /// On a machine that is so many times as slow as it was at first.
    fn repeat(slow_down: f64, has_torch: bool) -> Repeat {
        let torch =
            |seconds: f64| TorchResult { milliseconds: seconds * 1e3, runs: 5, memory_format: "contiguous".to_owned() };
        Repeat {
            one: job(4.0 * slow_down),
            two: job(2.0 * slow_down),
            wide: job(2.5 * slow_down),
            copies_seconds: 4.0 * slow_down,
            torch: has_torch.then(|| [torch(0.16 * slow_down), torch(0.1 * slow_down)]),
        }
    }

    pub(in crate::bench::pipeline) fn case(has_torch: bool) -> CaseReport {
        let repeats = [1.0, 3.0, 2.0].map(|slow_down| repeat(slow_down, has_torch)).into();
        let weights = vec![WorkerWeights { share_bytes: 1 << 20, resident_bytes: 1 << 20 }];
        CaseReport::new(
            (BenchModel::Unet, Format::F32),
            1,
            &Measured { repeats, weights, memory: Vec::new() },
            &[0.9, 0.9],
        )
        .unwrap()
    }

    #[test]
    fn ratios_are_within_a_repeat_and_do_not_see_that_the_machine_slows_down() {
        let case = case(true);
        assert_eq!((case.one_worker_seconds, case.two_workers_seconds), (8.0, 4.0));
        assert_eq!((case.speed_up, case.twice_the_threads_speed_up, case.independent_copies), (2.0, 1.6, 2.0));
        let [narrow, wide] = &case.torch[..] else { panic!("{:?}", case.torch) };
        assert_eq!((narrow.threads, wide.threads, narrow.milliseconds), (1, 2, 320.0));
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
        near(narrow.two_workers_ratio, 0.25);
        near(wide.two_workers_ratio, 0.4);
        near(wide.one_worker_ratio, 0.8);
    }

    #[test]
    fn the_ideal_counts_the_warm_up_as_one_workers() {
        let case = case(false);
        assert!((case.ideal_speed_up - 50.0 / (1.0 + 49.0 / 2.0)).abs() < 1e-9, "{}", case.ideal_speed_up);
        assert_eq!(case.torch, Vec::new());
        assert_eq!(CaseReport::new((BenchModel::Unet, Format::F32), 1, &Measured::default(), &[1.0]), None);
    }
}
