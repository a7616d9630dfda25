//! Progress of a job: a bar on a terminal, plain lines otherwise. Goes to stderr, so that stdout stays for results.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::note;
use crate::job::{JobRecord, JobState};

/// Plain lines per job beside those for new phases: a log shows that something moves, and stays readable.
const PLAIN_LINES: u32 = 5;

/// Shows a job's progress until it is dropped.
pub struct Progress {
    view: View,
    phase: String,
    warnings: usize,
}

enum View {
    Bar(ProgressBar),
    Lines { next: u32 },
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress {
    /// A bar if stderr is a terminal.
    #[must_use]
    pub fn new() -> Self {
        let view = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            // A template is fixed text; if it did not parse, the default style would serve.
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} {elapsed}, {eta} left") {
                bar.set_style(style);
            }
            View::Bar(bar)
        } else {
            View::Lines { next: 0 }
        };
        Self { view, phase: String::new(), warnings: 0 }
    }

    /// Says something beside the job's own progress.
    pub fn say(&self, text: &str) {
        match &self.view {
            View::Bar(bar) => bar.suspend(|| note(text)),
            View::Lines { .. } => note(text),
        }
    }

    /// Shows where the job is.
    pub fn show(&mut self, job: &JobRecord) {
        for warning in job.warnings.iter().skip(self.warnings) {
            self.say(&format!("warning: {warning}"));
        }
        self.warnings = self.warnings.max(job.warnings.len());
        let (taken, of) = job.progress;
        let under_way = matches!(job.state, JobState::Queued | JobState::Running);
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_length(u64::from(of));
                bar.set_position(u64::from(taken));
                bar.set_message(job.phase.clone());
            }
            View::Lines { next } => {
                if under_way && self.phase != job.phase {
                    note(&format!("{}: {}", job.id, job.phase));
                }
                if taken > 0 && taken >= *next {
                    note(&format!("{}: step {taken} of {of}", job.id));
                    *next = taken + (of / PLAIN_LINES).max(1);
                }
            }
        }
        self.phase.clone_from(&job.phase);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
