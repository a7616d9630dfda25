//! `bench gpus`: what more GPUs of one machine bring to jobs of a denoiser at its full size, with weights that only their time is asked for. The same
//! on CPUs, for trying.
//!
//! ```text
//!   for each model:  one cluster ──► 1 worker, stride 1 ──► N workers, stride S: a job that loads and warms, jobs that are timed, one that is traced
//! ```

mod markdown;
mod row;

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use asyncdiff_model::formula;
use asyncdiff_model::kernels::DeviceSet;
use asyncdiff_plan::{Encoding, InputKind, Program, Wishes};
use serde::Serialize;

pub use row::GpusRow;

use super::StepModel;
use super::hardware::hardware;
use super::jobs::{STOP_WITHIN, make, make_traced};
use super::model::GUIDANCE_SCALE;
use crate::job::{Dtype, JobSettings, JobSummary};
use crate::job_spec::{ConditionTensor, Conditions, InitialLatents, JobSpec, Product};
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_devices::local_devices;
use crate::render::chrome_trace;

/// Steps of a job before the timed ones: weights are loaded, layers measured, kernels chosen, and what is done again may be recorded.
const WARM_STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(5);

/// Steps of a traced job: enough for rounds after the warm-up, and few enough for a file that a browser opens.
const TRACED_STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(7);

/// Rows of the batch: the two halves of guidance.
const ROWS: u32 = 2;

/// What is measured: every model with every number of workers and stride.
#[derive(Clone, Debug)]
pub struct GpusBench {
    /// What the workers compute on: each on a GPU of its own, as long as there are enough.
    pub device: DeviceSet,
    /// Which denoisers.
    pub models: Vec<StepModel>,
    /// What they are computed in.
    pub dtype: Dtype,
    /// Numbers of workers. One worker is measured in any case, for the others are compared with it.
    pub workers: Vec<u16>,
    /// Steps served by one round.
    pub strides: Vec<NonZeroU32>,
    /// Denoising steps of each timed job.
    pub steps: NonZeroU32,
    /// Timed jobs of each row; the one with the median time is reported.
    pub repeats: NonZeroU32,
    /// A folder for a trace of each row with several workers.
    pub traces: Option<PathBuf>,
}

/// What [`GpusBench`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GpusReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// What the workers computed on, as it was asked for.
    pub device: String,
    /// What the denoisers were computed in.
    pub dtype: Dtype,
    /// Denoising steps of each timed job.
    pub steps: u32,
    /// By model, number of workers and stride.
    pub rows: Vec<GpusRow>,
}

/// One combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    workers: u16,
    stride: NonZeroU32,
}

/// A model with the workers that make it.
struct Subject {
    model: StepModel,
    program: Arc<Program>,
    local: LocalCluster,
}

impl GpusBench {
    /// Measures row by row.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<GpusReport> {
        let mut rows = Vec::new();
        for &model in &self.models {
            let subject = Subject::start(self, model).await?;
            let mut alone = None;
            for case in self.cases() {
                let summary = subject.measure(self, case).await;
                let summary = summary.with_context(|| format!("{} with {case:?} failed", model.name()))?;
                // The first case is one worker.
                let alone = *alone.get_or_insert_with(|| step_seconds(&summary));
                let row = GpusRow::new(model, case, alone, summary);
                on_progress(row.line());
                rows.push(row);
            }
            subject.local.shutdown(STOP_WITHIN).await;
        }
        Ok(GpusReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            device: self.device.to_string(),
            dtype: self.dtype,
            steps: self.steps.get(),
            rows,
        })
    }

    /// One worker first, and it has no use for a stride.
    fn cases(&self) -> Vec<Case> {
        let mut cases = vec![Case { workers: 1, stride: NonZeroU32::MIN }];
        for &workers in self.workers.iter().filter(|&&workers| workers > 1) {
            cases.extend(self.strides.iter().map(|&stride| Case { workers, stride }));
        }
        cases
    }
}

impl Case {
    /// A stride's other steps have a worker each, and what is left are components; never fewer than two. Hidden states travel as they are
    /// computed, so that every carrier has the same bytes.
    fn wishes(self) -> Wishes {
        let others = u16::try_from(self.stride.get() - 1).unwrap_or(u16::MAX);
        let components = if self.workers == 1 { 1 } else { self.workers.saturating_sub(others).max(2) };
        Wishes {
            components: Some(components),
            stride: Some(self.stride),
            warm_up: Some(1),
            split_guidance: Some(false),
            encoding: Some(Encoding::Full),
            max_workers: NonZeroU16::new(self.workers),
            ..Wishes::default()
        }
    }
}

impl Subject {
    async fn start(bench: &GpusBench, model: StepModel) -> anyhow::Result<Self> {
        let store = Arc::new(model.store()?);
        let planned = JobSettings { size: Some((model.side(), model.side())), ..JobSettings::default() };
        let program = Arc::clone(&store.planning_setup(&planned)?.program.program);
        let workers = bench.workers.iter().copied().max().unwrap_or(1);
        let devices = local_devices(bench.device, Some(workers.into()))?;
        let config = LocalClusterConfig { devices, ..LocalClusterConfig::new(store, workers.into()) };
        Ok(Self { model, program, local: LocalCluster::start(config).await? })
    }

    async fn measure(&self, bench: &GpusBench, case: Case) -> anyhow::Result<JobSummary> {
        let wishes = case.wishes();
        make(&self.local, self.spec(bench, WARM_STEPS, &wishes)).await?;
        let mut jobs = Vec::new();
        for _ in 0..bench.repeats.get() {
            jobs.push(make(&self.local, self.spec(bench, bench.steps, &wishes)).await?);
        }
        if let Some(folder) = bench.traces.as_ref().filter(|_| case.workers > 1) {
            let name = format!("{}-n{}-s{}.json", self.model.name(), case.workers, case.stride);
            let spec = self.spec(bench, TRACED_STEPS, &wishes);
            let traced = JobSpec { settings: JobSettings { trace: true, ..spec.settings }, ..spec };
            let trace = make_traced(&self.local, traced).await?;
            let path = folder.join(name);
            std::fs::write(&path, chrome_trace(&trace)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        jobs.sort_by(|one, other| one.denoise_seconds.total_cmp(&other.denoise_seconds));
        Ok(jobs.swap_remove(jobs.len() / 2))
    }

    fn spec(&self, bench: &GpusBench, steps: NonZeroU32, wishes: &Wishes) -> JobSpec {
        let settings = JobSettings {
            steps,
            guidance_scale: GUIDANCE_SCALE,
            size: Some((self.model.side(), self.model.side())),
            wishes: wishes.clone(),
            dtype: bench.dtype,
            ..JobSettings::default()
        };
        let conditions = conditions(&self.program);
        JobSpec { conditions, latents: InitialLatents::Seed(0), settings, product: Product::Latents }
    }
}

/// Without meaning.
fn conditions(program: &Program) -> Conditions {
    let tensors = program.inputs.iter().filter_map(|input| match &input.kind {
        InputKind::Condition(name) => {
            let shape: Vec<u32> = std::iter::once(ROWS).chain(input.value.shape.iter().copied()).collect();
            let axes: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
            let values = formula::input(name, &axes, 1);
            Some((name.clone(), ConditionTensor { shape, values }))
        }
        InputKind::Latents | InputKind::Timestep => None,
    });
    Conditions::Tensors(tensors.collect())
}

/// Of a job's denoising loop.
fn step_seconds(summary: &JobSummary) -> f64 {
    summary.denoise_seconds / f64::from(summary.steps.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(workers: &[u16], strides: &[u32]) -> GpusBench {
        GpusBench {
            device: DeviceSet::Cpu,
            models: vec![StepModel::Tiny],
            dtype: Dtype::F32,
            workers: workers.to_vec(),
            strides: strides.iter().map(|&stride| NonZeroU32::new(stride).unwrap()).collect(),
            steps: NonZeroU32::MIN,
            repeats: NonZeroU32::MIN,
            traces: None,
        }
    }

    #[test]
    fn one_worker_comes_first_and_has_no_stride() {
        let cases: Vec<_> =
            bench(&[1, 2, 4], &[1, 2]).cases().iter().map(|case| (case.workers, case.stride.get())).collect();
        assert_eq!(cases, [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)]);
        assert_eq!(bench(&[2], &[2]).cases().len(), 2);
    }

    #[test]
    fn a_strides_other_steps_have_a_worker_each() {
        let components = |workers, stride| {
            let case = Case { workers, stride: NonZeroU32::new(stride).unwrap() };
            case.wishes().components
        };
        assert_eq!([components(1, 1), components(2, 1), components(4, 1)], [Some(1), Some(2), Some(4)]);
        assert_eq!([components(2, 2), components(4, 2), components(4, 3)], [Some(2), Some(3), Some(2)]);
    }
}
