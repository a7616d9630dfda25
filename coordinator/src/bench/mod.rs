//! `bench`: what parallelism brings on this machine, measured against one worker in the same run; what one device does,
//! kernel by kernel; what the coordinator takes; and what carries tensors how fast.

mod coordinator;
mod device;
mod hardware;
mod links;
mod median;
mod model;
mod report;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use asyncdiff_plan::{Rank, Wishes};

pub use coordinator::{CoordinatorBench, CoordinatorReport};
pub use device::{Case, DeviceBench, DeviceReport};
pub use links::{LinksReport, measure_links};
pub use report::{PipelineReport, WorkerWeights};

use crate::actors::Limits;
use crate::cluster::PlannedJob;
use crate::job::{Dtype, JobSettings, JobSummary};
use crate::job_spec::JobSpec;
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_cpus::place;

/// How long ending a cluster may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Debug)]
pub struct PipelineBench {
    /// Steps of each job.
    pub steps: std::num::NonZeroU32,
    /// How often everything is measured; medians are reported.
    pub repeats: usize,
    /// How the two workers split the denoiser.
    pub wishes: Wishes,
    /// Threads of each worker.
    pub threads_per_worker: u32,
    /// What the denoiser is computed in.
    pub dtype: Dtype,
}

impl PipelineBench {
    /// Measures, in turn: one worker, two workers, and two workers that each make a picture of their own.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<PipelineReport> {
        let cpus = place(2, self.threads_per_worker as usize);
        let of_copy = |index: usize| cpus.get(index).cloned().into_iter().collect();
        let copies = [self.cluster(1, of_copy(0)).await?, self.cluster(1, of_copy(1)).await?];
        let pair = self.cluster(2, cpus).await?;
        let mut measured = Measured::default();
        // The first jobs load weights and measure layers; what they take is not counted by a denoising loop, but caches fill.
        let alone = Wishes { components: Some(1), split_guidance: Some(false), ..Wishes::default() };
        let warm = std::num::NonZeroU32::MIN.saturating_add(3);
        for (cluster, wishes) in [(&pair, &alone), (&pair, &self.wishes), (&copies[0], &alone), (&copies[1], &alone)] {
            make(cluster, self.spec(warm, wishes)).await?;
        }
        for repeat in 1..=self.repeats {
            let one = make(&pair, self.spec(self.steps, &alone)).await?;
            let two = make(&pair, self.spec(self.steps, &self.wishes)).await?;
            let (first, second) = tokio::try_join!(
                make(&copies[0], self.spec(self.steps, &alone)),
                make(&copies[1], self.spec(self.steps, &alone)),
            )?;
            let longer = first.denoise_seconds.max(second.denoise_seconds);
            on_progress(format!(
                "{repeat}/{}: one worker {:.2} s, two workers {:.2} s, two copies {longer:.2} s",
                self.repeats, one.denoise_seconds, two.denoise_seconds
            ));
            measured.one.push(one);
            measured.copies.push(longer);
            measured.two.push(two);
        }
        let plan = pair.cluster().plan(&self.settings(self.steps, &self.wishes)).await?;
        let weights = worker_weights(&plan, &measured.two);
        for cluster in std::iter::once(pair).chain(copies) {
            cluster.shutdown(STOP_WITHIN).await;
        }
        let largest_share = largest_share(&plan.choice.prediction.busy);
        PipelineReport::new(self, &measured, largest_share, weights).context("nothing was measured")
    }

    fn settings(&self, steps: std::num::NonZeroU32, wishes: &Wishes) -> JobSettings {
        JobSettings { dtype: self.dtype, ..model::settings(steps, wishes) }
    }

    fn spec(&self, steps: std::num::NonZeroU32, wishes: &Wishes) -> JobSpec {
        model::job(self.settings(steps, wishes))
    }

    async fn cluster(&self, workers: usize, cpus: Vec<String>) -> anyhow::Result<LocalCluster> {
        let config = LocalClusterConfig {
            store: Arc::new(model::store()?),
            model: None,
            workers,
            threads_per_worker: self.threads_per_worker,
            cpus,
            paced_flops_per_second: None,
            limits: Limits::default(),
            program: None,
        };
        Ok(LocalCluster::start(config).await?)
    }
}

/// What was measured, by repeat.
#[derive(Default)]
struct Measured {
    /// How one worker's jobs went.
    one: Vec<JobSummary>,
    /// How the two workers' jobs went.
    two: Vec<JobSummary>,
    /// Seconds of the slower of two workers that each make a picture of their own at the same time.
    copies: Vec<f64>,
}

async fn make(local: &LocalCluster, spec: JobSpec) -> anyhow::Result<JobSummary> {
    let record = local.cluster().submit(spec).await?.ended().await?;
    if let Some(error) = record.error {
        bail!("{}\nhint: {}", error.message, error.hint);
    }
    record.summary.context("the job ended without a summary")
}

/// The largest component's part of a step's work, from how busy the ranks are predicted to be.
fn largest_share(busy: &[f64]) -> f64 {
    let total: f64 = busy.iter().sum();
    busy.iter().copied().fold(0.0, f64::max) / total
}

/// What each rank holds, against what the plan says of its layers in the form that kernels hold them in.
fn worker_weights(plan: &PlannedJob, jobs: &[JobSummary]) -> Vec<WorkerWeights> {
    let placed = &plan.choice.placed;
    let resident = jobs.last().map(|job| job.resident_bytes.clone()).unwrap_or_default();
    let share = |rank: Rank| {
        let layers: Vec<_> = placed.part(rank).components.into_iter().flat_map(|(_, layers)| layers).collect();
        let layers = plan.program.with_shared(&layers).into_iter();
        layers.map(|layer| plan.costs[rank.index()][layer.index()].resident_bytes).sum()
    };
    let pair = |(rank, resident_bytes)| WorkerWeights { share_bytes: share(rank), resident_bytes };
    placed.ranks().zip(resident).map(pair).collect()
}
