//! What saving a running job's progress costs: the copy that the denoising loop makes, and what is done elsewhere.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use asyncdiff_common::codec;
use asyncdiff_model::noise_scheduler::{NoiseScheduler, SchedulerConfig, SchedulerKind};
use asyncdiff_plan::{Epoch, JobId, StepIndex};
use serde::Serialize;

use super::median::median;
use crate::actors::Limits;
use crate::denoise;
use crate::job_store::{Change, JobStore, Progress};

/// Sides of the latents, with what makes them.
const CASES: [(u32, &str); 4] =
    [(16, "demo model, 128×128"), (64, "SD, 512×512"), (96, "SD 2.1, 768×768"), (128, "SDXL, 1024×1024")];

/// The noise scheduler that remembers the most: three derivatives beside the newest.
const SCHEDULER: SchedulerKind = SchedulerKind::Lms;

const CONFIG: &str = r#"{"_class_name": "LMSDiscreteScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
    "beta_end": 0.012, "beta_schedule": "scaled_linear"}"#;

const CHANNELS: usize = 4;
const STEPS: usize = 50;

/// Times of saving, by the size of the picture.
#[derive(Clone, Debug, Serialize)]
pub struct SavingReport {
    /// One for each size.
    pub rows: Vec<SavingRow>,
    /// How much of the time saving may take, in percent, if nobody says otherwise.
    pub percent: u32,
}

/// Medians for one size.
#[derive(Clone, Debug, Serialize)]
pub struct SavingRow {
    /// What is made.
    pub case: String,
    /// Bytes of what is saved.
    pub bytes: usize,
    /// Seconds of the copy, for which the loop waits.
    pub copy_seconds: f64,
    /// Seconds of encoding it, on a thread that nobody waits for.
    pub encode_seconds: f64,
    /// Seconds of the commit, syncs included, on the thread that writes.
    pub commit_seconds: f64,
}

/// Saves each size so many times into a database in `folder`.
pub fn measure_saving(folder: &Path, repeats: usize) -> anyhow::Result<SavingReport> {
    let mut store = JobStore::open(folder)?;
    let rows = CASES.iter().map(|&(side, case)| row(&mut store, side, case, repeats)).collect::<anyhow::Result<_>>()?;
    Ok(SavingReport { rows, percent: Limits::default().saving_percent })
}

fn row(store: &mut JobStore, side: u32, case: &str, repeats: usize) -> anyhow::Result<SavingRow> {
    let (mut copies, mut encodings, mut commits) = (Vec::new(), Vec::new(), Vec::new());
    let running = running_loop(CHANNELS * (side * side) as usize)?;
    let mut bytes = 0;
    for _repeat in 0..repeats {
        let begun = Instant::now();
        let copy = running.clone();
        copies.push(begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        let state = codec::encode(&copy)?;
        encodings.push(begun.elapsed().as_secs_f64());
        bytes = state.len();
        let progress = Progress { epoch: Epoch(1), steps: copy.step.0, state: state.into() };
        let begun = Instant::now();
        store.apply(&[Change::Progressed(JobId(1), progress)])?;
        commits.push(begun.elapsed().as_secs_f64());
    }
    let middle = |values| median(values).context("nothing was saved");
    Ok(SavingRow {
        case: case.to_owned(),
        bytes,
        copy_seconds: middle(copies)?,
        encode_seconds: middle(encodings)?,
        commit_seconds: middle(commits)?,
    })
}

/// What a loop in the middle of a job has.
fn running_loop(elements: usize) -> anyhow::Result<denoise::Progress> {
    let config = SchedulerConfig::from_json(CONFIG)?.with_kind(SCHEDULER);
    let mut scheduler = NoiseScheduler::new(&config, STEPS, 0)?;
    let (mut latents, prediction) = (vec![1.0; elements], vec![0.1; elements]);
    for step in 0..STEPS / 2 {
        scheduler.step(step, &prediction, &mut latents);
    }
    Ok(denoise::Progress { step: StepIndex(STEPS as u32 / 2), latents, scheduler: scheduler.state() })
}

impl SavingRow {
    /// Seconds from the beginning of one copy to the beginning of the next.
    fn period_seconds(&self, percent: u32) -> f64 {
        (self.copy_seconds + self.encode_seconds + self.commit_seconds) * 100.0 / f64::from(percent)
    }

    fn markdown(&self, percent: u32) -> String {
        format!(
            "| {} | {} | {:.3} | {:.3} | {:.1} | {:.2} |\n",
            self.case,
            self.bytes,
            1e3 * self.copy_seconds,
            1e3 * self.encode_seconds,
            1e3 * self.commit_seconds,
            self.period_seconds(percent)
        )
    }
}

impl SavingReport {
    /// The rows as a table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows: String = self.rows.iter().map(|row| row.markdown(self.percent)).collect();
        format!(
            "| latents of | bytes | copy, ms | encode, ms | commit, ms | saved every, s |\n|---|--:|--:|--:|--:|--:|\n{rows}\n\
             The denoising loop waits for the copy alone. It is saved as often as all three together take {} % of the time.\n",
            self.percent
        )
    }
}
