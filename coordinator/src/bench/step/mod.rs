//! `bench step`: what one device takes for a step of a denoiser at its full size, with weights that only their time is asked for; what
//! `tests/gpu/torch_step.py` times of PyTorch, and written down in the same words.

mod markdown;
mod model;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use asyncdiff_model::kernels::{DeviceChoice, Format, Kernels};

pub use model::StepModel;
pub use report::{LayerKindTime, StepCase, StepReport};

use self::report::Timing;
use super::device::{LayerTime, Subject};
use super::hardware::hardware;

/// Steps before those that are counted: kernels are chosen in the first one, and what is done again may be recorded in the next ones.
const WARM_STEPS: u32 = 5;

/// Runs of each layer in a row; enough that the wait at their end is a small part.
const LAYER_RUNS: u32 = 10;

/// A step that takes longer needs no such care: a CPU's.
const SLOW: Duration = Duration::from_millis(200);

/// Turns recording of what is launched on or off, where a device can record; see the README.
const GRAPHS_VARIABLE: &str = "ASYNCDIFF_CUDA_GRAPHS";

/// What is measured.
#[derive(Clone, Debug)]
pub struct StepBench {
    /// On what.
    pub device: DeviceChoice,
    /// Which denoisers.
    pub models: Vec<StepModel>,
    /// In which formats; if none, in the device's fastest.
    pub formats: Vec<Format>,
    /// Steps that are counted, at most.
    pub runs: u32,
    /// How long a case's steps are counted, at most; three are in any case.
    pub time: Duration,
}

impl StepBench {
    /// Measures one model and format after the other.
    pub fn run(&self, on_progress: &(dyn Fn(&str) + Sync)) -> anyhow::Result<StepReport> {
        let kernels = Kernels::for_choice(self.device)?;
        let formats = if self.formats.is_empty() { vec![kernels.fastest_format()] } else { self.formats.clone() };
        // A CPU would take f32 for it, and the figure would have the wrong name.
        ensure!(kernels.gpu().is_some() || !formats.contains(&Format::F16), "f16 is for GPUs");
        let mut cases = Vec::new();
        for &model in &self.models {
            for &format in &formats {
                let case = self.measure(model, &kernels.with_format(format), format);
                let case = case.with_context(|| format!("{} in {} failed", model.name(), format.name()))?;
                on_progress(&case.line());
                cases.push(case);
                kernels.trim();
            }
        }
        Ok(StepReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            device: self.device.to_string(),
            gpu: kernels.gpu().map(|gpu| gpu.name.clone()),
            capability: kernels.gpu().map(|gpu| gpu.capability),
            graphs: std::env::var(GRAPHS_VARIABLE).ok(),
            cases,
        })
    }

    fn measure(&self, model: StepModel, kernels: &Kernels, format: Format) -> anyhow::Result<StepCase> {
        let free_before = free_bytes(kernels)?;
        let start = Instant::now();
        let subject = Subject::denoiser(&model.config()?, kernels)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let first = one(&subject, kernels)?;
        let is_slow = first > SLOW && kernels.gpu().is_none();
        for _ in 1..if is_slow { 1 } else { WARM_STEPS } {
            one(&subject, kernels)?;
        }
        let each = self.each(&subject, kernels)?;
        let in_a_row = in_a_row(&subject, kernels, each.len() as u32)?;
        // Before layers are measured by themselves: what they hold meanwhile is not what a step holds.
        let free_after = free_bytes(kernels)?;
        let layers: Vec<LayerTime> = subject.layer_times(if is_slow { 1 } else { LAYER_RUNS })?;
        let device_bytes = free_before.zip(free_after).map(|(before, after)| before.saturating_sub(after));
        let timing = Timing { load_seconds, first, each, in_a_row };
        StepCase::new((model, format), &subject, &timing, &layers, device_bytes).context("nothing was timed")
    }

    /// Seconds of steps that are each waited for, as a denoising loop does.
    fn each(&self, subject: &Subject, kernels: &Kernels) -> anyhow::Result<Vec<f64>> {
        /// The median of fewer is one of them.
        const LEAST: usize = 3;
        let (begin, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < LEAST || (seconds.len() < self.runs as usize && begin.elapsed() < self.time) {
            seconds.push(one(subject, kernels)?.as_secs_f64());
        }
        Ok(seconds)
    }
}

fn one(subject: &Subject, kernels: &Kernels) -> anyhow::Result<Duration> {
    let start = Instant::now();
    subject.run()?;
    kernels.synchronize()?;
    Ok(start.elapsed())
}

/// Seconds of a step when the next one is handed over before it is done: what the device takes if whoever hands over is not slower.
fn in_a_row(subject: &Subject, kernels: &Kernels, steps: u32) -> anyhow::Result<f64> {
    let start = Instant::now();
    for _ in 0..steps {
        subject.run()?;
    }
    kernels.synchronize()?;
    Ok(start.elapsed().as_secs_f64() / f64::from(steps))
}

/// Of a GPU's memory.
fn free_bytes(kernels: &Kernels) -> anyhow::Result<Option<u64>> {
    Ok(kernels.gpu().map(|gpu| gpu.free_bytes()).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cpus_figure_is_called_f16() {
        let (models, formats) = (vec![StepModel::Tiny], vec![Format::F16]);
        let bench = StepBench { device: DeviceChoice::Cpu, models, formats, runs: 1, time: Duration::ZERO };
        assert!(bench.run(&|_| ()).unwrap_err().to_string().contains("f16 is for GPUs"));
    }

    #[test]
    fn a_small_step_is_timed_as_a_whole_and_by_kinds_of_layers() {
        let bench = StepBench {
            device: DeviceChoice::Cpu,
            models: vec![StepModel::Tiny],
            formats: vec![Format::F32],
            runs: 1,
            time: Duration::ZERO,
        };
        let report = bench.run(&|_| ()).unwrap();
        let [case] = &report.cases[..] else { panic!("{report:?}") };
        assert!(case.milliseconds > 0.0 && case.runs == 3 && case.device_bytes.is_none(), "{case:?}");
        let share: f64 = case.kinds.iter().map(|kind| kind.share).sum();
        let operations: f64 = case.kinds.iter().map(|kind| kind.tflop).sum();
        // The time embedding has one row for both halves of guidance.
        assert!((share - 1.0).abs() < 1e-9 && (operations / case.tflop - 1.0).abs() < 1e-3, "{case:?}");
        for kind in ["cross attention", "feed-forward", "projection", "resnet", "self attention"] {
            assert!(case.kinds.iter().any(|found| found.kind == kind), "{kind} in {case:?}");
        }
        assert!(report.markdown().contains("| tiny | f32 |"), "{}", report.markdown());
    }
}
