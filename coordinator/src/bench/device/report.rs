//! The figures of `bench device`: what its JSON holds. `markdown.rs` draws them.

use asyncdiff_model::kernels::{Format, Peak};
use serde::Serialize;

use super::case::Case;
use super::kinds::{KindTime, NodeTime, by_kind};
use super::subject::Subject;
use super::torch::TorchResult;

/// What [`DeviceBench`](super::DeviceBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// The instruction set that the kernels use.
    pub instruction_set: &'static str,
    /// The environment's cap on it.
    pub instruction_set_cap: Option<String>,
    /// Threads of the device.
    pub threads: usize,
    /// Measured: f32 multiply-adds in registers, of all threads.
    pub peak_gflops_per_s: f64,
    /// Measured: reading memory in order, of all threads.
    pub memory_gb_per_s: f64,
    /// Who was held against.
    pub torch: Option<TorchVersion>,
    /// By case: the fastest of our formats divided by PyTorch's fastest.
    pub best_over_best: Vec<BestRatio>,
    /// By case and format.
    pub cases: Vec<CaseReport>,
}

/// Which PyTorch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TorchVersion {
    /// Its version.
    pub torch: String,
    /// The instruction set that it says it uses.
    pub capability: String,
}

/// The fastest format of each side.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BestRatio {
    /// The case.
    pub case: &'static str,
    /// Ours divided by PyTorch's.
    pub ratio: f64,
}

/// One case in one format.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CaseReport {
    /// The case.
    pub case: &'static str,
    /// The format of weights and products that was asked for.
    pub dtype: &'static str,
    /// Median of the runs.
    pub milliseconds: f64,
    /// How many runs that is of.
    pub runs: usize,
    /// What is computed once per job and not counted.
    pub once_per_job_milliseconds: Option<f64>,
    /// Operations of a run by definition: norms and activations are not counted, and a faster algorithm does not count as less.
    pub gflop: f64,
    /// Those by the time.
    pub gflops_per_s: f64,
    /// Of the measured f32 peak. Above 1 where bf16 or Winograd's algorithm do more than that.
    pub share_of_peak: f64,
    /// Parameters as they are held.
    pub weight_bytes: u64,
    /// That divided by what they are as plain f32.
    pub weight_factor: f64,
    /// PyTorch on the same.
    pub torch: Option<TorchResult>,
    /// Ours divided by PyTorch's.
    pub ratio: Option<f64>,
    /// Operations by the kernel that computes them.
    pub by_operation: Vec<KindTime>,
    /// Layers of a denoiser by kind; empty for others.
    pub by_layer: Vec<KindTime>,
}

impl CaseReport {
    pub(super) fn new(
        subject: &Subject,
        (case, format): (Case, Format),
        (seconds, runs): (f64, usize),
        nodes: &[NodeTime],
        peak: &Peak,
    ) -> Self {
        Self {
            case: case.name(),
            dtype: format.name(),
            milliseconds: seconds * 1e3,
            runs,
            once_per_job_milliseconds: subject.once_per_job.map(|duration| duration.as_secs_f64() * 1e3),
            gflop: subject.flops / 1e9,
            gflops_per_s: subject.flops / seconds / 1e9,
            share_of_peak: subject.flops / seconds / peak.flops_per_second,
            weight_bytes: subject.resident_bytes,
            weight_factor: subject.resident_bytes as f64 / subject.plain_bytes as f64,
            torch: None,
            ratio: None,
            by_operation: by_kind(nodes, peak, |node| Some(&node.operation)),
            by_layer: by_kind(nodes, peak, |node| node.layer),
        }
    }

    /// With what PyTorch took.
    pub(super) fn against(self, torch: Option<TorchResult>) -> Self {
        let ratio = torch.as_ref().map(|torch| self.milliseconds / torch.milliseconds);
        Self { torch, ratio, ..self }
    }

    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        let ratio = self.ratio.map_or(String::new(), |ratio| format!(", {ratio:.2} of PyTorch's time"));
        format!("{} {}: {:.1} ms{ratio}", self.case, self.dtype, self.milliseconds)
    }
}

/// For each case that PyTorch ran, in order.
pub(super) fn best_ratios(cases: &[CaseReport]) -> Vec<BestRatio> {
    let mut names: Vec<&'static str> = cases.iter().map(|case| case.case).collect();
    names.dedup();
    let ratio = |&name: &&'static str| {
        let of_case = || cases.iter().filter(|case| case.case == name);
        let ours = of_case().map(|case| case.milliseconds).min_by(f64::total_cmp)?;
        let theirs = of_case().filter_map(|case| Some(case.torch.as_ref()?.milliseconds)).min_by(f64::total_cmp)?;
        Some(BestRatio { case: name, ratio: ours / theirs })
    };
    names.iter().filter_map(ratio).collect()
}
