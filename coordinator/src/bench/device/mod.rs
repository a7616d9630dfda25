//! `bench device`: what one device takes for the parts of Stable Diffusion, kernel by kernel, against what its CPU can do at best and,
//! where there is a Python with it, against PyTorch in the same run.
//!
//! ```text
//!   Case ──load──► Subject ──run──► milliseconds ┐
//!                     │                          ├──► CaseReport ──► DeviceReport: Markdown, JSON
//!                     └──profile──► NodeTimes ───┤
//!   torch_device.py (the same case) ─────────────┘
//! ```

mod case;
mod kinds;
mod layers;
mod markdown;
mod report;
mod subject;
mod torch;
mod weights;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use asyncdiff_model::kernels::{CAP_VARIABLE, Format, Isa, Kernels, Peak};

pub use case::Case;
pub(super) use layers::{LayerKind, LayerTime};
pub use report::DeviceReport;
pub(super) use report::TorchVersion;
pub(super) use subject::Subject;
pub(super) use torch::{Torch, TorchResult};
pub(super) use weights::RepeatedWeights;

use self::report::{CaseReport, best_ratios};
use super::hardware::hardware;
use super::median::median;

/// Timed runs at least, however long they take.
const RUNS_MIN: usize = 3;

/// Timed runs at most between two of PyTorch's: the median of more is no better.
const RUNS_MAX: usize = 200;

/// What is measured.
#[derive(Clone, Debug)]
pub struct DeviceBench {
    /// Threads of the device.
    pub threads: NonZeroUsize,
    /// Which models.
    pub cases: Vec<Case>,
    /// In which formats; if none, in f32 and in the fastest.
    pub formats: Vec<Format>,
    /// How long a case is timed between two runs of PyTorch's; at least [`RUNS_MIN`] runs are.
    pub time: Duration,
    /// How often PyTorch is timed; ours is timed before, between and after.
    pub repeats: usize,
    /// A Python that has what `tests/bench/requirements.txt` lists. Without it only ours is timed.
    pub torch: Option<PathBuf>,
}

impl DeviceBench {
    /// Measures everything, one case after another, on threads of its own.
    pub fn run(&self, on_progress: &(dyn Fn(&str) + Sync)) -> anyhow::Result<DeviceReport> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads.get()).build()?;
        pool.install(|| self.measure(on_progress))
    }

    fn measure(&self, on_progress: &(dyn Fn(&str) + Sync)) -> anyhow::Result<DeviceReport> {
        let isa = Isa::best();
        let peak = peak(isa)?;
        let torch = self.torch.as_deref().map(|python| Torch::new(python, self.threads, self.time)).transpose()?;
        let mut formats = self.formats.clone();
        if formats.is_empty() {
            formats = vec![Format::F32, isa.fastest_format()];
            formats.dedup();
        }
        let (mut cases, mut torch_version) = (Vec::new(), None);
        for &case in &self.cases {
            for &format in &formats {
                let (report, version) = self.measure_case((case, format), isa, &peak, torch.as_ref())?;
                on_progress(&report.line());
                cases.push(report);
                torch_version = version.or(torch_version);
            }
        }
        Ok(DeviceReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            instruction_set: isa.name(),
            instruction_set_cap: std::env::var(CAP_VARIABLE).ok(),
            threads: self.threads.get(),
            peak_gflops_per_s: peak.flops_per_second / 1e9,
            memory_gb_per_s: peak.bytes_per_second / 1e9,
            torch: torch_version,
            best_over_best: best_ratios(&cases),
            cases,
        })
    }

    fn measure_case(
        &self,
        (case, format): (Case, Format),
        isa: Isa,
        peak: &Peak,
        torch: Option<&Torch>,
    ) -> anyhow::Result<(CaseReport, Option<TorchVersion>)> {
        let subject = Subject::load(case, &Kernels::cpu(isa).with_format(format))
            .with_context(|| format!("cannot load {}", case.name()))?;
        subject.run()?;
        let mut ours = self.time_runs(&subject)?;
        let (mut theirs, mut version) = (Vec::new(), None);
        if let Some(torch) = torch {
            for _repeat in 0..self.repeats {
                let (result, found) = torch.time(case, format)?;
                theirs.push(result);
                version = Some(found);
                ours.extend(self.time_runs(&subject)?);
            }
        }
        let runs = ours.len();
        let seconds = median(ours).context("nothing was measured")?;
        let nodes = subject.profile(self.time)?;
        let report = CaseReport::new(&subject, (case, format), (seconds, runs), &nodes, peak);
        Ok((report.against(TorchResult::median(theirs)), version))
    }

    fn time_runs(&self, subject: &Subject) -> anyhow::Result<Vec<f64>> {
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < RUNS_MIN || (seconds.len() < RUNS_MAX && begin.elapsed() < self.time) {
            let start = Instant::now();
            subject.run()?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(seconds)
    }
}

/// Of all threads together, measured at the same time: they may share units, caches and the way to memory.
fn peak(isa: Isa) -> anyhow::Result<Peak> {
    let mut sum = Peak { flops_per_second: 0.0, bytes_per_second: 0.0 };
    for peak in rayon::broadcast(|_| isa.measure_peak()) {
        let peak = peak?;
        sum.flops_per_second += peak.flops_per_second;
        sum.bytes_per_second += peak.bytes_per_second;
    }
    Ok(sum)
}
