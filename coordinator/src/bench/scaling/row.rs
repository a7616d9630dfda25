//! One row: a cluster of simulated devices, a job on it, and what it took against what its plan allows.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, ensure};
use asyncdiff_plan::{Choice, Cut, Program, Wishes};
use serde::Serialize;

use super::capacity::Capacity;
use super::ideal::{Ideal, Pace};
use super::model::{conditions, flops_of};
use super::network::Network;
use super::{Case, GuidanceWay, ScalingBench, SimulatedModel, Subject};
use crate::actors::Limits;
use crate::bench::jobs::{STOP_WITHIN, make};
use crate::bench::model::GUIDANCE_SCALE;
use crate::job::{Dtype, JobSettings, JobSummary};
use crate::job_spec::{InitialLatents, JobSpec, Product};
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::worker_processes::Simulation;

/// Steps of a job before the measured one, which opens congestion windows and takes memory: a round after the warm-up.
const WARM_STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

/// How long a worker may be silent: more processes than cores, and perhaps others' on the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was found for one combination. Times are undilated: what was measured, divided by `dilation`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScalingRow {
    /// The model.
    pub model: SimulatedModel,
    /// What is between the devices.
    pub network: Network,
    /// How many devices.
    pub devices: u16,
    /// Steps served by one round.
    pub stride: u32,
    /// How the halves of guidance are computed.
    pub guidance: GuidanceWay,
    /// Components of the plan.
    pub components: u16,
    /// The plan in one line.
    pub plan: String,
    /// How hidden states travel after the warm-up.
    pub encoding: String,
    /// By what factor all times were dilated, and rates divided.
    pub dilation: f64,
    /// Seconds of the denoising loop.
    pub seconds: f64,
    /// Milliseconds per step.
    pub step_ms: f64,
    /// Times faster than the published time of one device.
    pub speed_up: f64,
    /// 1 / (w/T + (1 - w/T) · share / S) of the plan.
    pub ideal_speed_up: f64,
    /// What the plan allows with links that have no other cost than their rate and delay.
    pub ideal_with_links: f64,
    /// The speed-up as a part of `ideal_with_links`.
    pub share_of_ideal: f64,
    /// The share that is asked for.
    pub goal: f64,
    /// Bytes per step between devices, headers included, counted by the links.
    pub bytes_per_step: f64,
    /// What the plan predicted for them.
    pub predicted_bytes_per_step: f64,
    /// The share of the time in which each device was busy.
    pub busy: Vec<f64>,
    /// Median milliseconds between a noise prediction's arrival at the coordinator and the next latents' departure, undilated as well.
    pub turnaround_ms: f64,
}

impl ScalingRow {
    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        format!(
            "{} {} N={} S={} {}: {:.1} ms per step, {:.2}x, {:.1} % of the ideal {:.2}x, dilation {:.1}",
            self.model.name(),
            self.network,
            self.devices,
            self.stride,
            self.guidance.name(),
            self.step_ms,
            self.speed_up,
            100.0 * self.share_of_ideal,
            self.ideal_with_links,
            self.dilation
        )
    }
}

impl Subject {
    pub(super) async fn measure(
        &self,
        bench: &ScalingBench,
        case: &Case,
        capacity: Option<&Capacity>,
    ) -> anyhow::Result<ScalingRow> {
        let choice = self.pace.plan(&case.wishes(), bench.steps, case.devices.into(), case.network)?;
        let ideal = self.pace.ideal(&choice.placed, case.network);
        let dilation = match capacity {
            Some(capacity) => {
                let step_seconds = ideal.seconds / f64::from(bench.steps.get());
                let bytes_per_second = choice.prediction.bytes_per_step / step_seconds;
                capacity.dilation(case.devices.into(), bytes_per_second, case.network)
            }
            None => bench.dilation.context("no dilation was given or measured")?,
        };
        let wishes = pinned(&case.wishes(), &choice, &self.pace.program);
        let local = self.cluster(case, dilation).await?;
        make(&local, self.spec(WARM_STEPS, &wishes)).await?;
        let mut jobs = Vec::new();
        for _ in 0..bench.repeats.get() {
            jobs.push(make(&local, self.spec(bench.steps, &wishes)).await?);
        }
        jobs.sort_by(|one, other| one.denoise_seconds.total_cmp(&other.denoise_seconds));
        let job = jobs.swap_remove(jobs.len() / 2);
        local.shutdown(STOP_WITHIN).await;
        let (planned, found) = (choice.prediction.bytes_per_step, job.predicted_bytes_per_step);
        ensure!(
            planned == found,
            "the job had another plan than the ideal is of: {} with {planned} bytes per step, and {} by {} workers with {found}",
            choice.reason,
            job.plan,
            job.workers.len()
        );
        Ok(self.row(case, dilation, (&job, &choice.outline), ideal))
    }

    fn row(&self, case: &Case, dilation: f64, (job, outline): (&JobSummary, &str), ideal: Ideal) -> ScalingRow {
        let Pace { program, flops_per_second } = &self.pace;
        let alone = flops_of(program, f64::from(job.steps)) / flops_per_second;
        let seconds = job.denoise_seconds / dilation;
        let speed_up = alone / seconds;
        ScalingRow {
            model: case.model,
            network: case.network,
            devices: case.devices,
            stride: case.stride.get(),
            guidance: case.guidance,
            components: job.components,
            plan: outline.to_owned(),
            encoding: job.encoding.clone(),
            dilation,
            seconds,
            step_ms: seconds * 1e3 / f64::from(job.steps),
            speed_up,
            ideal_speed_up: ideal.formula,
            ideal_with_links: ideal.with_links,
            share_of_ideal: speed_up / ideal.with_links,
            goal: case.network.goal(),
            bytes_per_step: job.bytes_per_step,
            predicted_bytes_per_step: job.predicted_bytes_per_step,
            busy: job.busy.clone(),
            turnaround_ms: job.turnaround_seconds * 1e3 / dilation,
        }
    }

    fn spec(&self, steps: NonZeroU32, wishes: &Wishes) -> JobSpec {
        JobSpec {
            conditions: conditions(&self.pace.program),
            latents: InitialLatents::Seed(0),
            settings: settings(steps, wishes),
            product: Product::Latents,
        }
    }

    async fn cluster(&self, case: &Case, dilation: f64) -> anyhow::Result<LocalCluster> {
        let simulation = Simulation {
            flops_per_second: self.pace.flops_per_second / dilation,
            link_limit: case.network.limit(dilation),
        };
        let config = LocalClusterConfig {
            limits: Limits { lost_after: PATIENCE, hello_within: PATIENCE, ..Limits::default() },
            simulation: Some(simulation),
            ..LocalClusterConfig::new(self.store.clone(), case.devices.into())
        };
        Ok(LocalCluster::start(config).await?)
    }
}

/// The same with the split that was chosen: the job's own planner would also count what carrying takes from this machine's cores, which are not
/// the simulated devices.
fn pinned(wishes: &Wishes, choice: &Choice, program: &Program) -> Wishes {
    let cut = Some(Cut::Modules(choice.placed.plan.partition.module_lists(program)));
    Wishes { components: None, cut, ..wishes.clone() }
}

fn settings(steps: NonZeroU32, wishes: &Wishes) -> JobSettings {
    JobSettings {
        steps,
        guidance_scale: GUIDANCE_SCALE,
        wishes: wishes.clone(),
        dtype: Dtype::F32,
        ..JobSettings::default()
    }
}
