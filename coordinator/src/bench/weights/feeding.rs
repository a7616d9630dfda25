//! A job's steps while another worker is fed with parameters all the time, and while it is not, in turns.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use asyncdiff_common::wire::PartSpec;
use asyncdiff_plan::Wishes;
use tokio::time::Instant;

use super::place::{Place, load};
use super::{FeedingRow, median};
use crate::actors::{Limits, WeightCounts, WorkerHandle};
use crate::bench::model::BenchModel;
use crate::job_spec::JobSpec;
use crate::model_store::ModelStore;

/// Rates of the coordinator, in bytes per second.
const RATES: [Option<u64>; 2] = [None, Some(100 << 20)];

/// Jobs of each kind.
const JOBS: usize = 3;

/// Steps of each.
const STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// How often it is looked who serves the job.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// - `model`: what is fed, and its bytes.
pub(super) async fn measure(
    store: &Arc<ModelStore>,
    model: (&PartSpec, u64),
    note: &mut dyn FnMut(String),
) -> anyhow::Result<Vec<FeedingRow>> {
    let mut rows = Vec::new();
    for rate in RATES {
        let limits = Limits { weights_bytes_per_second: rate.and_then(NonZeroU64::new), ..Limits::default() };
        let mut place = Place::start(store, limits).await?;
        let processes = place.join(2, &[]).await?;
        let handles = place.handles(&processes).await?;
        // Loads and measures.
        step_seconds(&place).await?;
        let (mut alone, mut fed, mut rates) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..JOBS {
            alone.push(step_seconds(&place).await?);
            let (seconds, bytes_per_second) = beside_feeding(&place, &handles, model).await?;
            fed.push(seconds);
            rates.push(bytes_per_second);
        }
        place.stop(processes).await?;
        place.end().await;
        let row = FeedingRow {
            rate,
            undisturbed_step_seconds: median(alone).context("no job was made")?,
            fed_step_seconds: median(fed).context("no job was made")?,
            fed_bytes_per_second: median(rates).context("nobody was fed")?,
        };
        note(format!("a step takes {:.3} s alone and {:.3} s", row.undisturbed_step_seconds, row.fed_step_seconds));
        rows.push(row);
    }
    Ok(rows)
}

/// Seconds of a job's step, and bytes per second that the worker without a part in it is fed meanwhile.
async fn beside_feeding(
    place: &Place,
    handles: &[WorkerHandle],
    (part, bytes): (&PartSpec, u64),
) -> anyhow::Result<(f64, f64)> {
    let before: Vec<u64> = handles.iter().map(predictions).collect();
    let is_over = AtomicBool::new(false);
    let job = async {
        let seconds = step_seconds(place).await;
        is_over.store(true, Ordering::Relaxed);
        seconds
    };
    let feeding = async {
        // A worker may have a place in a job and nothing to do there: who makes the noise predictions is the one that computes.
        let mut busy = None;
        while busy.is_none() && !is_over.load(Ordering::Relaxed) {
            tokio::time::sleep(LOOK_EVERY).await;
            busy = handles.iter().zip(&before).position(|(handle, before)| predictions(handle) > *before);
        }
        let idle = handles.iter().enumerate().find(|(index, _)| Some(*index) != busy).map(|(_, handle)| handle);
        let idle = idle.context("there is nobody to be fed")?;
        let (begun, mut fed) = (Instant::now(), 0.0);
        // What has begun is not given up: the worker would send an answer that nobody expects.
        while !is_over.load(Ordering::Relaxed) {
            load(idle, part).await?;
            fed += bytes as f64;
        }
        anyhow::Ok(fed / begun.elapsed().as_secs_f64())
    };
    let (seconds, bytes_per_second) = tokio::join!(job, feeding);
    Ok((seconds?, bytes_per_second?))
}

/// Noise predictions that a worker has made.
fn predictions(worker: &WorkerHandle) -> u64 {
    worker.record(WeightCounts::default()).tensors.noise_predictions
}

/// Seconds of a step of a job that one worker makes alone.
async fn step_seconds(place: &Place) -> anyhow::Result<f64> {
    let stride = Some(NonZeroU32::MIN);
    let wishes = Wishes { components: Some(1), stride, split_guidance: Some(false), ..Wishes::default() };
    let spec: JobSpec = BenchModel::Unet.job(BenchModel::Unet.settings(STEPS, &wishes));
    let summary = crate::bench::jobs::make(&place.local, spec).await?;
    Ok(summary.denoise_seconds / f64::from(summary.steps.max(1)))
}
