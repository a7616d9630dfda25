//! The figures of `bench coordinator` as JSON and Markdown.

use asyncdiff_common::config::format_bytes;
use serde::Serialize;

/// What [`CoordinatorBench`](super::CoordinatorBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoordinatorReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// Denoising steps of each job.
    pub steps: u32,
    /// Jobs with each number of workers.
    pub repeats: u32,
    /// Seconds that a worker takes for its component, in the mean over the components.
    pub pace_seconds: f64,
    /// By number of workers.
    pub turnarounds: Vec<TurnaroundReport>,
    /// What `run` takes, if it was started.
    pub start_up: Option<StartUpReport>,
}

/// What the coordinator takes with a number of workers. Its turnaround is the time between a noise prediction's arrival and the next latents'
/// departure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TurnaroundReport {
    /// Workers.
    pub workers: u16,
    /// Components, one for each worker as far as there are layers.
    pub components: u16,
    /// The median turnaround: a median of the jobs' medians.
    pub p50_seconds: f64,
    /// What 99 of 100 turnarounds are no longer than: a median of the jobs' figures.
    pub p99_seconds: f64,
    /// The longest turnaround of all jobs.
    pub max_seconds: f64,
    /// What a step takes: a median of the jobs' means.
    pub step_seconds: f64,
    /// Processor time of the coordinator's process per step, in user mode and in the kernel, with what planning takes for each step of a job: it
    /// simulates all of them. None if the jobs are too short to tell.
    pub processor_seconds_per_step: Option<f64>,
    /// Peak resident memory of this process so far.
    pub coordinator_peak_memory_bytes: u64,
    /// The largest of the workers' peak resident memories. They hold no weights.
    pub worker_peak_memory_bytes: u64,
}

/// What `coordinator run` takes on the demo model, with default settings. Times are medians and count from its process's start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StartUpReport {
    /// How often it was started.
    pub runs: usize,
    /// Denoising steps.
    pub steps: u32,
    /// Until the first step was taken.
    pub first_step_seconds: f64,
    /// Until the picture was saved and the process had ended.
    pub picture_seconds: f64,
    /// Of these, the denoising loop.
    pub denoise_seconds: f64,
    /// Peak resident memory of the coordinator's process, of the last run.
    pub coordinator_peak_memory_bytes: u64,
    /// Peak resident memory of each worker's process, of the last run.
    pub worker_peak_memory_bytes: Vec<u64>,
}

impl TurnaroundReport {
    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        let Self { workers, p50_seconds, p99_seconds, .. } = self;
        format!(
            "{workers} workers: turnaround p50 {}, p99 {} ms",
            milliseconds(*p50_seconds),
            milliseconds(*p99_seconds)
        )
    }

    fn row(&self) -> String {
        let processor = self.processor_seconds_per_step.map_or(String::new(), milliseconds);
        format!(
            "| {} | {} | {} | {} | {} | {} | {processor} | {} | {} |\n",
            self.workers,
            self.components,
            milliseconds(self.p50_seconds),
            milliseconds(self.p99_seconds),
            milliseconds(self.max_seconds),
            milliseconds(self.step_seconds),
            format_bytes(self.coordinator_peak_memory_bytes as f64),
            format_bytes(self.worker_peak_memory_bytes as f64)
        )
    }
}

impl StartUpReport {
    fn markdown(&self) -> String {
        let workers: Vec<String> = self.worker_peak_memory_bytes.iter().map(|&b| format_bytes(b as f64)).collect();
        format!(
            "\n| `coordinator run` | demo model, {} steps, medians of {} runs |\n|---|---|\n\
             | start to first step | {:.2} s |\n| start to saved picture | {:.2} s, of which {:.2} s are the denoising loop |\n\
             | peak memory of the coordinator | {} |\n| peak memory of each worker | {} |\n",
            self.steps,
            self.runs,
            self.first_step_seconds,
            self.picture_seconds,
            self.denoise_seconds,
            format_bytes(self.coordinator_peak_memory_bytes as f64),
            workers.join(", ")
        )
    }
}

impl CoordinatorReport {
    /// The figures as Markdown tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows: String = self.turnarounds.iter().map(TurnaroundReport::row).collect();
        let start_up = self.start_up.as_ref().map_or(String::new(), StartUpReport::markdown);
        format!(
            "| coordinator | version {} |\n|---|---|\n| hardware | {} |\n\
             | settings | {} steps, {} job(s) for each row, workers that compute nothing and take {} ms for a component |\n\n\
             | workers | components | turnaround p50, ms | p99, ms | longest, ms | step, ms | coordinator's processor time per step with planning, ms | \
             its peak memory | a worker's |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n{rows}{start_up}",
            self.version,
            self.hardware,
            self.steps,
            self.repeats,
            self.pace_seconds * 1e3
        )
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(processor_seconds_per_step: Option<f64>, start_up: Option<StartUpReport>) -> CoordinatorReport {
        let turnaround = TurnaroundReport {
            workers: 64,
            components: 60,
            p50_seconds: 0.000_05,
            p99_seconds: 0.000_4,
            max_seconds: 0.002,
            step_seconds: 0.021,
            processor_seconds_per_step,
            coordinator_peak_memory_bytes: 64 << 20,
            worker_peak_memory_bytes: 20 << 20,
        };
        let (hardware, turnarounds) = ("a CPU, 2 cores".to_owned(), vec![turnaround]);
        CoordinatorReport {
            hardware,
            version: "0.1.0",
            steps: 500,
            repeats: 3,
            pace_seconds: 0.02,
            turnarounds,
            start_up,
        }
    }

    #[test]
    fn rows_are_as_wide_as_their_head() {
        for processor in [None, Some(0.001)] {
            let text = report(processor, None).markdown();
            assert!(text.contains("| 64 | 60 | 0.050 | 0.400 | 2.000 | 21.000 |"), "{text}");
            let cells = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().matches('|').count();
            assert_eq!(cells("| workers"), cells("| 64"), "{text}");
        }
    }

    #[test]
    fn start_up_is_reported_where_it_was_measured() {
        let start_up = StartUpReport {
            runs: 5,
            steps: 50,
            first_step_seconds: 0.75,
            picture_seconds: 1.5,
            denoise_seconds: 0.5,
            coordinator_peak_memory_bytes: 60 << 20,
            worker_peak_memory_bytes: vec![80 << 20, 90 << 20],
        };
        let text = report(None, Some(start_up)).markdown();
        for part in ["| 0.75 s |", "| 1.50 s, of which 0.50 s", "| 60.0 MiB |", "| 80.0 MiB, 90.0 MiB |"] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!report(None, None).markdown().contains("coordinator run"));
    }
}
