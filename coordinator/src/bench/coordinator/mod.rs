//! `bench coordinator`: what the coordinator itself takes of a step and how that grows with the workers, what `run` takes to its first step and
//! to its picture, and what memory the processes need.
//!
//! ```text
//!   Turnarounds: this process is the coordinator; workers are processes that compute nothing and take a given time ─┐
//!   StartUps:    `coordinator run` in a process of its own, with workers that compute ──────────────────────────────┴─► CoordinatorReport
//! ```

mod report;
mod start_up;
mod turnaround;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

pub use report::CoordinatorReport;

use super::hardware::hardware;

/// What is measured.
#[derive(Clone, Debug)]
pub struct CoordinatorBench {
    /// Numbers of workers.
    pub workers: Vec<NonZeroU16>,
    /// Denoising steps of each job: as many turnarounds, less one.
    pub steps: NonZeroU32,
    /// Jobs with each number of workers; medians of their figures are reported.
    pub repeats: NonZeroU32,
    /// How long a worker takes for its component, in the mean over the components.
    pub pace: Duration,
    /// How often `run` is started; not at all if 0.
    pub runs: u32,
}

impl CoordinatorBench {
    /// Measures, the fewest workers first.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<CoordinatorReport> {
        let mut numbers = self.workers.clone();
        numbers.sort_unstable();
        numbers.dedup();
        let mut turnarounds = Vec::new();
        for workers in numbers {
            let report = turnaround::measure(self, workers).await?;
            on_progress(report.line());
            turnarounds.push(report);
        }
        let start_up = start_up::measure(self.runs, on_progress).await?;
        Ok(CoordinatorReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            steps: self.steps.get(),
            repeats: self.repeats.get(),
            pace_seconds: self.pace.as_secs_f64(),
            turnarounds,
            start_up,
        })
    }
}
