//! What was found of a step, as it is written down.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncdiff_model::kernels::Format;
use serde::Serialize;

use super::StepModel;
use crate::bench::device::{LayerKind, LayerTime, Subject};
use crate::bench::median::median;

/// What `bench step` found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// What computed, such as `cuda:0`.
    pub device: String,
    /// The GPU's name.
    pub gpu: Option<String>,
    /// The GPU's compute capability.
    pub capability: Option<(u32, u32)>,
    /// What `ASYNCDIFF_CUDA_GRAPHS` says; none where it is not set.
    pub graphs: Option<String>,
    /// By model and format.
    pub cases: Vec<StepCase>,
}

/// A denoiser in a format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepCase {
    /// Which.
    pub model: StepModel,
    /// Of weights and products.
    pub format: &'static str,
    /// Median of steps that are each waited for.
    pub milliseconds: f64,
    /// The shortest of them.
    pub min_milliseconds: f64,
    /// The longest of them.
    pub max_milliseconds: f64,
    /// How many.
    pub runs: usize,
    /// Of a step when the next one is handed over before it is done.
    pub in_a_row_milliseconds: f64,
    /// Of the first step, in which kernels are compiled and chosen.
    pub first_milliseconds: f64,
    /// What depends on a job's conditions alone, once.
    pub once_per_job_milliseconds: Option<f64>,
    /// Making the weights up, laying them out and taking them to the device.
    pub load_seconds: f64,
    /// Operations of a step in 10^12, by the definition of its layers.
    pub tflop: f64,
    /// In 10^12 per second, by the median.
    pub tflop_per_s: f64,
    /// Parameters as they are held.
    pub weight_bytes: u64,
    /// What the GPU's free memory became less by, its context left aside.
    pub device_bytes: Option<u64>,
    /// By kind, the longest first; each layer computed several times in a row.
    pub kinds: Vec<LayerKindTime>,
}

/// All layers of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerKindTime {
    /// The kind.
    pub kind: LayerKind,
    /// How many layers.
    pub layers: usize,
    /// What they take together.
    pub milliseconds: f64,
    /// Of all layers' time.
    pub share: f64,
    /// Their operations in 10^12.
    pub tflop: f64,
    /// In 10^12 per second.
    pub tflop_per_s: f64,
}

/// What a case took.
pub(super) struct Timing {
    pub(super) load_seconds: f64,
    pub(super) first: Duration,
    /// Seconds.
    pub(super) each: Vec<f64>,
    /// Seconds.
    pub(super) in_a_row: f64,
}

impl StepCase {
    /// `None` if no step was timed.
    pub(super) fn new(
        (model, format): (StepModel, Format),
        subject: &Subject,
        timing: &Timing,
        layers: &[LayerTime],
        device_bytes: Option<u64>,
    ) -> Option<Self> {
        let seconds = median(timing.each.clone())?;
        let fold = |least: fn(f64, f64) -> f64| timing.each.iter().copied().reduce(least).unwrap_or(seconds) * 1e3;
        Some(Self {
            model,
            format: format.name(),
            milliseconds: seconds * 1e3,
            min_milliseconds: fold(f64::min),
            max_milliseconds: fold(f64::max),
            runs: timing.each.len(),
            in_a_row_milliseconds: timing.in_a_row * 1e3,
            first_milliseconds: timing.first.as_secs_f64() * 1e3,
            once_per_job_milliseconds: subject.once_per_job.map(|time| time.as_secs_f64() * 1e3),
            load_seconds: timing.load_seconds,
            tflop: subject.flops / 1e12,
            tflop_per_s: subject.flops / seconds / 1e12,
            weight_bytes: subject.resident_bytes,
            device_bytes,
            kinds: by_kind(layers),
        })
    }

    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        format!(
            "{} {}: {:.2} ms, {:.2} ms in a row, {:.1} TFLOP/s",
            self.model.name(),
            self.format,
            self.milliseconds,
            self.in_a_row_milliseconds,
            self.tflop_per_s
        )
    }
}

fn by_kind(layers: &[LayerTime]) -> Vec<LayerKindTime> {
    let all: f64 = layers.iter().map(|layer| layer.seconds).sum();
    let mut sums: BTreeMap<LayerKind, (usize, f64, f64)> = BTreeMap::new();
    for layer in layers {
        let (count, seconds, flops) = sums.entry(layer.kind).or_default();
        *count += 1;
        *seconds += layer.seconds;
        *flops += layer.flops;
    }
    let row = |(kind, (layers, seconds, flops)): (LayerKind, (usize, f64, f64))| LayerKindTime {
        kind,
        layers,
        milliseconds: seconds * 1e3,
        share: seconds / all,
        tflop: flops / 1e12,
        tflop_per_s: flops / seconds / 1e12,
    };
    let mut rows: Vec<LayerKindTime> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    rows
}
