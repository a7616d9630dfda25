//! The benchmark's figures as JSON and Markdown.

use serde::Serialize;

use super::hardware::hardware;
use super::median::median;
use super::{Measured, PipelineBench};
use crate::job::JobSummary;

/// What [`PipelineBench`](super::PipelineBench) found. Times are medians over the repeats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PipelineReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// Steps of each job.
    pub steps: u32,
    /// Steps served by one round.
    pub stride: u32,
    /// Exact first steps.
    pub warm_up: u32,
    /// How often everything was measured.
    pub repeats: usize,
    /// Threads of each worker.
    pub threads_per_worker: u32,
    /// Seconds of one worker's denoising loop.
    pub one_worker_seconds: f64,
    /// Seconds of the two workers' denoising loop.
    pub two_workers_seconds: f64,
    /// Times faster: the median of the repeats' ratios.
    pub speed_up: f64,
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
}

/// What one worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct WorkerWeights {
    /// Bytes of the parameters of its layers.
    pub share_bytes: u64,
    /// Bytes of parameters that it holds.
    pub resident_bytes: u64,
}

impl PipelineReport {
    /// Sums up; `None` if nothing was measured.
    pub(super) fn new(
        bench: &PipelineBench,
        measured: &Measured,
        largest_share: f64,
        weights: Vec<WorkerWeights>,
    ) -> Option<Self> {
        let seconds = |jobs: &[JobSummary]| -> Vec<f64> { jobs.iter().map(|job| job.denoise_seconds).collect() };
        let (one, two) = (seconds(&measured.one), seconds(&measured.two));
        let ratios = |over: &[f64], times: f64| -> Option<f64> {
            median(one.iter().zip(over).map(|(one, over)| times * one / over).collect())
        };
        let (alone, summary) = (measured.one.last()?, measured.two.last()?);
        let busy_seconds = |job: &JobSummary| job.denoise_seconds * job.busy.iter().sum::<f64>();
        let (steps, warm_up) = (f64::from(summary.steps), f64::from(summary.warm_up));
        let rounds = (steps - warm_up) * largest_share / f64::from(summary.stride);
        let (ideal_speed_up, speed_up) = (steps / (warm_up + rounds), ratios(&two, 1.0)?);
        let independent_copies = ratios(&measured.copies, 2.0)?;
        let of_summaries = |figure: fn(&JobSummary) -> f64| median(measured.two.iter().map(figure).collect());
        Some(Self {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            steps: summary.steps,
            stride: summary.stride,
            warm_up: summary.warm_up,
            repeats: bench.repeats,
            threads_per_worker: bench.threads_per_worker,
            one_worker_seconds: median(one.clone())?,
            two_workers_seconds: median(two)?,
            speed_up,
            ideal_speed_up,
            independent_copies,
            of_reachable: speed_up / (ideal_speed_up * independent_copies / 2.0),
            predicted_over_measured: of_summaries(|job| job.predicted_seconds / job.denoise_seconds)?,
            busy: summary.busy.iter().chain(&alone.busy).copied().collect(),
            computing: busy_seconds(summary) / busy_seconds(alone),
            bytes_per_step: of_summaries(|job| job.bytes_per_step)?,
            predicted_bytes_over_counted: of_summaries(|job| job.predicted_bytes_per_step / job.bytes_per_step)?,
            turnaround_seconds: of_summaries(|job| job.turnaround_seconds)?,
            weights,
        })
    }

    /// The figures as a Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let weights = self.weights.iter().map(|weights| {
            let ratio = weights.resident_bytes as f64 / weights.share_bytes as f64;
            format!("{:.1} MiB ({ratio:.2} of its share)", weights.resident_bytes as f64 / f64::from(1 << 20))
        });
        let percent = |share: &f64| format!("{:.0} %", 100.0 * share);
        let rows = [
            ("hardware", self.hardware.clone()),
            (
                "one worker",
                format!(
                    "{:.2} s, {:.1} ms per step",
                    self.one_worker_seconds,
                    self.milliseconds(self.one_worker_seconds)
                ),
            ),
            (
                "two workers",
                format!(
                    "{:.2} s, {:.1} ms per step",
                    self.two_workers_seconds,
                    self.milliseconds(self.two_workers_seconds)
                ),
            ),
            ("speed-up", format!("{:.2}x (the split allows {:.2}x)", self.speed_up, self.ideal_speed_up)),
            (
                "two independent copies",
                format!(
                    "{:.2}x; the speed-up is {:.2} of what that allows",
                    self.independent_copies, self.of_reachable
                ),
            ),
            (
                "computing",
                format!(
                    "{} of the time; together {:.3} times as long as one alone",
                    self.busy.iter().map(percent).collect::<Vec<_>>().join(", "),
                    self.computing
                ),
            ),
            ("predicted / measured time", format!("{:.2}", self.predicted_over_measured)),
            (
                "bytes per step",
                format!("{:.0} (predicted / counted: {:.3})", self.bytes_per_step, self.predicted_bytes_over_counted),
            ),
            ("coordinator's turnaround, p50", format!("{:.3} ms", self.turnaround_seconds * 1e3)),
            ("weights by worker", weights.collect::<Vec<_>>().join(", ")),
        ];
        let settings = format!(
            "{} steps, stride {}, warm-up {}, {} thread(s) per worker, {} repeats",
            self.steps, self.stride, self.warm_up, self.threads_per_worker, self.repeats
        );
        let lines = rows.map(|(name, value)| format!("| {name} | {value} |\n"));
        format!("| pipeline | {settings} |\n|---|---|\n{}", lines.concat())
    }

    fn milliseconds(&self, seconds: f64) -> f64 {
        seconds * 1e3 / f64::from(self.steps)
    }
}
