//! One row of `bench gpus`.

use serde::Serialize;

use super::{Case, step_seconds};
use crate::bench::StepModel;
use crate::job::JobSummary;

/// What was found for a model with a number of workers and a stride.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpusRow {
    /// The model.
    pub model: StepModel,
    /// Workers that the job might use.
    pub workers: u16,
    /// Steps served by one round.
    pub stride: u32,
    /// Milliseconds per step.
    pub step_milliseconds: f64,
    /// Those of one worker with all components, measured in the same run.
    pub alone_milliseconds: f64,
    /// How many times as fast as one worker.
    pub speed_up: f64,
    /// What the job's own report says: bytes, memory and time of computing by rank, the plan, what was predicted.
    pub summary: JobSummary,
}

impl GpusRow {
    pub(super) fn new(model: StepModel, case: Case, alone_seconds: f64, summary: JobSummary) -> Self {
        let seconds = step_seconds(&summary);
        Self {
            model,
            workers: case.workers,
            stride: case.stride.get(),
            step_milliseconds: seconds * 1e3,
            alone_milliseconds: alone_seconds * 1e3,
            speed_up: alone_seconds / seconds,
            summary,
        }
    }

    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        format!(
            "{} N={} S={}: {:.2} ms per step, {:.2}x",
            self.model.name(),
            self.workers,
            self.stride,
            self.step_milliseconds,
            self.speed_up
        )
    }
}
