//! `bench pipeline`: two workers against one, against one with twice the threads, against two that share nothing, and against PyTorch; in turns, so
//! that a machine that slows down slows all of them.
//!
//! ```text
//!   for each model and type:  one worker, two workers, one with twice the threads, two independent ones, PyTorch ──┐ repeats
//!                                       └──────────────────────── Measured ◄───────────────────────────────────────┘
//!                                                                     └──► CaseReport: JSON; Markdown, a column each
//! ```

mod markdown;
mod measured;
mod memory;
mod report;

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::kernels::Format;
use asyncdiff_plan::Wishes;

pub use report::PipelineReport;

use self::measured::{Measured, Repeat, TorchTimes, worker_weights};
use self::report::CaseReport;
use super::device::{Torch, TorchVersion};
use super::hardware::hardware;
use super::jobs::{STOP_WITHIN, make};
use super::model::BenchModel;
use crate::job::{Dtype, JobSettings};
use crate::job_spec::JobSpec;
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_cpus::place;
use crate::model_store::ModelStore;

/// How long PyTorch's runs of one process go on, at most; [`Torch`] says what is run at least.
const TORCH_TIME: Duration = Duration::from_secs(5);

/// Steps of the jobs that load weights and measure layers.
const WARM_STEPS: u32 = 4;

/// What is measured.
#[derive(Clone, Debug)]
pub struct PipelineBench {
    /// Steps of each job.
    pub steps: NonZeroU32,
    /// How often everything is measured; medians are reported.
    pub repeats: usize,
    /// How the two workers split the denoiser.
    pub wishes: Wishes,
    /// Threads of each worker.
    pub threads_per_worker: NonZeroU32,
    /// With which models.
    pub models: Vec<BenchModel>,
    /// What their denoisers are computed in. A type that comes to the same as one before is left out.
    pub dtypes: Vec<Dtype>,
    /// A Python that has what `tests/bench/requirements.txt` lists. Without it PyTorch is not timed.
    pub torch: Option<PathBuf>,
}

/// PyTorch with a worker's threads, and with twice as many.
type Torches = [Torch; 2];

/// The clusters of a model.
struct Clusters {
    /// Two workers, the first of which is also measured alone.
    pair: LocalCluster,
    /// One worker with twice the threads.
    wide: LocalCluster,
    /// Two workers that each make a picture of their own.
    copies: [LocalCluster; 2],
}

impl PipelineBench {
    /// Measures one model and type after the other.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<PipelineReport> {
        let torches = self.torch.as_ref().map(|_| self.torches()).transpose()?.map(Arc::new);
        let (mut cases, mut torch_version): (Vec<CaseReport>, _) = (Vec::new(), None);
        for &model in &self.models {
            let mut done = Vec::new();
            for &dtype in &self.dtypes {
                let measuring = Measuring { bench: self, model, dtype, torches: torches.clone() };
                let clusters = Clusters::start(self, model).await?;
                let measured = measuring.run(&clusters, &mut done, on_progress).await;
                clusters.shutdown().await;
                if let Some((report, version)) = measured? {
                    cases.push(report);
                    torch_version = version.or(torch_version);
                }
            }
        }
        Ok(PipelineReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            repeats: self.repeats,
            threads_per_worker: self.threads_per_worker.get(),
            torch: torch_version,
            cases,
        })
    }

    fn torches(&self) -> anyhow::Result<Torches> {
        let python = self.torch.as_deref().context("no Python is named")?;
        let threads = NonZeroUsize::try_from(self.threads_per_worker)?;
        let twice = threads.saturating_add(threads.get());
        Ok([Torch::new(python, threads, TORCH_TIME)?, Torch::new(python, twice, TORCH_TIME)?])
    }
}

impl Clusters {
    async fn start(bench: &PipelineBench, model: BenchModel) -> anyhow::Result<Self> {
        let (store, threads) = (Arc::new(model.store()?), bench.threads_per_worker.get());
        let cpus = place(2, threads as usize);
        let of_copy = |index: usize| cpus.get(index).cloned().into_iter().collect();
        let copies = [start(&store, 1, threads, of_copy(0)).await?, start(&store, 1, threads, of_copy(1)).await?];
        let wide = start(&store, 1, 2 * threads, place(1, 2 * threads as usize)).await?;
        Ok(Self { pair: start(&store, 2, threads, cpus).await?, wide, copies })
    }

    async fn shutdown(self) {
        for cluster in [self.pair, self.wide].into_iter().chain(self.copies) {
            cluster.shutdown(STOP_WITHIN).await;
        }
    }
}

/// What is measured of one model in one type.
struct Measuring<'a> {
    bench: &'a PipelineBench,
    model: BenchModel,
    dtype: Dtype,
    torches: Option<Arc<Torches>>,
}

impl Measuring<'_> {
    /// `None` if the type comes to one that is done.
    async fn run(
        &self,
        clusters: &Clusters,
        done: &mut Vec<ComputeType>,
        on_progress: &mut (dyn FnMut(String) + Send),
    ) -> anyhow::Result<Option<(CaseReport, Option<TorchVersion>)>> {
        let Clusters { pair, wide, copies: [first, second] } = clusters;
        let bench = self.bench;
        // The first jobs load weights and measure layers; what they take is not counted by a denoising loop, but caches fill.
        let warm = NonZeroU32::new(WARM_STEPS).unwrap_or(NonZeroU32::MIN);
        make(pair, self.spec(warm, &bench.wishes)).await?;
        let plan = pair.cluster().plan(&self.settings(bench.steps, &bench.wishes)).await?;
        if done.contains(&plan.compute) {
            return Ok(None);
        }
        done.push(plan.compute);
        // Before the workers have held anything but their own components.
        let memory = memory::sample(pair, &plan, self.spec(bench.steps, &bench.wishes)).await?;
        for cluster in [pair, wide, first, second] {
            make(cluster, self.spec(warm, &alone())).await?;
        }
        let (mut measured, mut version) = (Measured { memory, ..Measured::default() }, None);
        for repeat in 1..=bench.repeats {
            let one = make(pair, self.spec(bench.steps, &alone())).await?;
            let two = make(pair, self.spec(bench.steps, &bench.wishes)).await?;
            let wide = make(wide, self.spec(bench.steps, &alone())).await?;
            let (first, second) = tokio::try_join!(
                make(first, self.spec(bench.steps, &alone())),
                make(second, self.spec(bench.steps, &alone())),
            )?;
            let copies_seconds = first.denoise_seconds.max(second.denoise_seconds);
            let torch = match &self.torches {
                Some(torches) => Some(self.time_torch(torches, format(plan.compute)).await?),
                None => None,
            };
            let (torch, found) = torch.unzip();
            version = found.or(version);
            let repeated = Repeat { one, two, wide, copies_seconds, torch };
            let name = format!("{} {}", self.model.name(), format(plan.compute).name());
            on_progress(format!("{name} {repeat}/{}: {}", bench.repeats, repeated.line()));
            measured.repeats.push(repeated);
        }
        measured.weights = worker_weights(&plan, &measured.repeats);
        let case = (self.model, format(plan.compute));
        let report = CaseReport::new(case, bench.threads_per_worker.get(), &measured, &plan.choice.prediction.busy);
        Ok(Some((report.context("nothing was measured")?, version)))
    }

    async fn time_torch(&self, torches: &Arc<Torches>, format: Format) -> anyhow::Result<(TorchTimes, TorchVersion)> {
        let (torches, case) = (Arc::clone(torches), self.model.denoiser_case());
        let timing = tokio::task::spawn_blocking(move || {
            let [narrow, wide] = &*torches;
            let (narrow, version) = narrow.time(case, format)?;
            Ok(([narrow, wide.time(case, format)?.0], version))
        });
        timing.await?
    }

    fn settings(&self, steps: NonZeroU32, wishes: &Wishes) -> JobSettings {
        JobSettings { dtype: self.dtype, ..self.model.settings(steps, wishes) }
    }

    fn spec(&self, steps: NonZeroU32, wishes: &Wishes) -> JobSpec {
        self.model.job(self.settings(steps, wishes))
    }
}

/// One component, which one worker computes.
fn alone() -> Wishes {
    Wishes { components: Some(1), split_guidance: Some(false), ..Wishes::default() }
}

fn format(compute: ComputeType) -> Format {
    match compute {
        ComputeType::Bf16 => Format::Bf16,
        ComputeType::F16 => Format::F16,
        ComputeType::F32 => Format::F32,
    }
}

async fn start(
    store: &Arc<ModelStore>,
    workers: usize,
    threads_per_worker: u32,
    cpus: Vec<String>,
) -> anyhow::Result<LocalCluster> {
    let config = LocalClusterConfig { threads_per_worker, cpus, ..LocalClusterConfig::new(Arc::clone(store), workers) };
    Ok(LocalCluster::start(config).await?)
}
