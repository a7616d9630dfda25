//! The figures of `bench recovery` as JSON and Markdown.

use std::time::Duration;

use serde::Serialize;

use super::fault::Fault;
use crate::bench::median::median;

/// What [`RecoveryBench`](super::RecoveryBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RecoveryReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// By kind of fault.
    pub faults: Vec<FaultReport>,
}

/// How one disturbed job went.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) completed: bool,
    pub(super) error: Option<String>,
    pub(super) noticed: Option<Duration>,
    pub(super) resumed: Option<Duration>,
    pub(super) pause: Option<Duration>,
    pub(super) ready: Option<Duration>,
    pub(super) undisturbed_seconds: f64,
    pub(super) extra_seconds: Option<f64>,
    pub(super) refreshes: usize,
    /// Infinite if the pictures are equal.
    pub(super) decibels: Option<f64>,
}

/// A middle and a maximum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// The largest.
    pub max: f64,
}

/// Jobs with one kind of fault in their middle. Figures that no job has are absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultReport {
    /// Which kind.
    pub fault: &'static str,
    /// Denoising steps of each job.
    pub steps: u32,
    /// Jobs.
    pub jobs: usize,
    /// Those that were completed.
    pub completed: usize,
    /// Those that went on by another plan after it: a fault at the very end, or a worker that joins too late to help, changes none.
    pub changed_plan: usize,
    /// Seconds from a loss until the job left the plan that it hit.
    pub noticed_seconds: Option<Spread>,
    /// Seconds until the first step of the plan after it was finished; from the process's start, where a worker joined.
    pub resumed_seconds: Option<Spread>,
    /// The longest time without a finished step, from then on.
    pub pause_seconds: Option<Spread>,
    /// Seconds from the start of a process that joined until it was in the cluster and ready.
    pub ready_seconds: Option<Spread>,
    /// What undisturbed jobs take, made in turns with the others: the median.
    pub undisturbed_seconds: Option<f64>,
    /// What a job took more than the undisturbed one before it: the median. Below 0 where a worker that joined helped.
    pub extra_seconds: Option<f64>,
    /// The most steps of a job that were exact because its plan changed.
    pub refreshes_max: usize,
    /// The least PSNR of a job's picture to the undisturbed one's in dB; absent if all are equal to the bit.
    pub psnr_min_decibels: Option<f64>,
}

impl Outcome {
    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        let after = |what: Option<Duration>| what.map_or("not".to_owned(), |time| format!("after {time:.3?}"));
        let (went_on, extra) = (after(self.resumed), self.extra_seconds.map_or(f64::NAN, |extra| extra));
        match &self.error {
            Some(error) => format!("the job failed: {error}"),
            None => format!("went on by another plan {went_on}, {extra:+.2} s for the job"),
        }
    }
}

impl Spread {
    fn of(values: impl Iterator<Item = Duration>) -> Option<Self> {
        let values: Vec<f64> = values.map(|value| value.as_secs_f64()).collect();
        let max = values.iter().copied().fold(0.0, f64::max);
        median(values).map(|p50| Self { p50, max })
    }
}

impl FaultReport {
    pub(super) fn new(fault: Fault, steps: u32, outcomes: &[Outcome]) -> Self {
        let spread = |of: fn(&Outcome) -> Option<Duration>| Spread::of(outcomes.iter().filter_map(of));
        let decibels = outcomes.iter().filter_map(|outcome| outcome.decibels).filter(|decibels| decibels.is_finite());
        Self {
            fault: fault.name(),
            steps,
            jobs: outcomes.len(),
            completed: outcomes.iter().filter(|outcome| outcome.completed).count(),
            changed_plan: outcomes.iter().filter(|outcome| outcome.resumed.is_some()).count(),
            noticed_seconds: spread(|outcome| outcome.noticed),
            resumed_seconds: spread(|outcome| outcome.resumed),
            pause_seconds: spread(|outcome| outcome.pause),
            ready_seconds: spread(|outcome| outcome.ready),
            undisturbed_seconds: median(outcomes.iter().map(|outcome| outcome.undisturbed_seconds).collect()),
            extra_seconds: median(outcomes.iter().filter_map(|outcome| outcome.extra_seconds).collect()),
            refreshes_max: outcomes.iter().map(|outcome| outcome.refreshes).max().unwrap_or(0),
            psnr_min_decibels: decibels.min_by(f64::total_cmp),
        }
    }

    fn row(&self) -> String {
        let psnr = match self.psnr_min_decibels {
            Some(decibels) => format!("{decibels:.1}"),
            None if self.completed > 0 => "equal".to_owned(),
            None => String::new(),
        };
        format!(
            "| {} | {} | {} of {} | {} | {} | {} | {} | {} | {} | {} | {psnr} |\n",
            self.fault,
            self.steps,
            self.completed,
            self.jobs,
            self.changed_plan,
            spread(self.noticed_seconds),
            spread(self.resumed_seconds),
            spread(self.pause_seconds),
            seconds(self.undisturbed_seconds),
            self.extra_seconds.map_or(String::new(), |extra| format!("{extra:+.2}")),
            self.refreshes_max
        )
    }
}

impl RecoveryReport {
    /// The figures as a Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows: String = self.faults.iter().map(FaultReport::row).collect();
        let joined = self.faults.iter().find_map(|fault| Some((fault.ready_seconds?, fault)));
        let joined = joined.map_or(String::new(), |(ready, fault)| {
            let useful = spread(fault.resumed_seconds);
            format!(
                "\nA worker that joins: {:.2} s from its process's start to ready (at most {:.2}), {} to the first step that it has a part in.\n",
                ready.p50,
                ready.max,
                if useful.is_empty() { "too long".to_owned() } else { format!("{useful} s") }
            )
        });
        format!(
            "| coordinator | version {} |\n|---|---|\n| hardware | {} |\n\n\
             | a worker is | steps | completed | changed plan | noticed, s | first step after, s | longest pause, s | undisturbed job, s | \
             more for the fault, s | exact steps, most | PSNR, least, dB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n{rows}{joined}",
            self.version, self.hardware
        )
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{value:.2}"))
}

/// Median and maximum.
fn spread(value: Option<Spread>) -> String {
    value.map_or(String::new(), |Spread { p50, max }| format!("{p50:.3} (max {max:.3})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes() -> Vec<Outcome> {
        let good = |milliseconds, extra, decibels| Outcome {
            completed: true,
            resumed: Some(Duration::from_millis(milliseconds)),
            pause: Some(Duration::from_millis(milliseconds + 5)),
            undisturbed_seconds: 2.0,
            extra_seconds: Some(extra),
            refreshes: 1,
            decibels: Some(decibels),
            ..Outcome::default()
        };
        let failed = Outcome { error: Some("no".to_owned()), undisturbed_seconds: 2.5, ..Outcome::default() };
        vec![good(300, 0.5, 41.0), good(100, 0.25, f64::INFINITY), good(200, 0.75, 38.5), failed]
    }

    #[test]
    fn a_job_that_failed_is_counted_and_spoils_no_figure_of_the_others() {
        let found = FaultReport::new(Fault::Killed, 100, &outcomes());
        assert_eq!((found.jobs, found.completed, found.changed_plan, found.refreshes_max), (4, 3, 3, 1));
        assert_eq!(found.resumed_seconds, Some(Spread { p50: 0.2, max: 0.3 }));
        assert_eq!((found.extra_seconds, found.undisturbed_seconds), (Some(0.5), Some(2.0)));
        assert_eq!((found.psnr_min_decibels, found.noticed_seconds), (Some(38.5), None));
    }

    #[test]
    fn rows_are_as_wide_as_their_head_and_joining_is_told_where_it_was_measured() {
        let faults =
            vec![FaultReport::new(Fault::Killed, 100, &outcomes()), FaultReport::new(Fault::Stopped, 100, &[])];
        let mut report = RecoveryReport { hardware: "a CPU".to_owned(), version: "0.1.0", faults };
        let text = report.markdown();
        assert!(text.contains("| killed (SIGKILL) | 100 | 3 of 4 | 3 |  | 0.200 (max 0.300) |"), "{text}");
        let cells = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().matches('|').count();
        assert_eq!((cells("| killed"), cells("| stopped")), (cells("| a worker"), cells("| a worker")), "{text}");
        assert!(!text.contains("joins"), "{text}");
        report.faults[0].ready_seconds = Some(Spread { p50: 0.25, max: 0.5 });
        assert!(report.markdown().contains("0.25 s from its process's start to ready (at most 0.50)"));
    }
}
