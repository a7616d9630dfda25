//! Where a fault is measured: a coordinator in this process, and workers that join it by themselves.

use std::num::NonZeroU32;
use std::sync::Arc;

use asyncdiff_model::kernels::DeviceSet;
use asyncdiff_plan::{Cut, Encoding, Wishes};

use super::fault::Fault;
use crate::bench::jobs::{JOIN_WITHIN, STOP_WITHIN, make};
use crate::bench::model::BenchModel;
use crate::cluster::Cluster;
use crate::job::JobSettings;
use crate::job_spec::{JobSpec, Product};
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_cpus::place;
use crate::local_devices::{LocalDevice, local_devices};
use crate::worker_processes::{ProcessError, ProcessSettings, WorkerProcesses};

/// Parts that the denoiser is split into.
const COMPONENTS: u16 = 2;

/// Steps of the job that loads weights and measures layers.
const WARM_STEPS: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

/// A cluster, ready for the jobs of one fault.
pub(super) struct Place {
    local: LocalCluster,
    processes: WorkerProcesses,
    /// CPUs of the workers, and of one that joins.
    cpus: Vec<String>,
    /// What they compute on.
    devices: Vec<LocalDevice>,
    /// The same for all jobs, the cut included: pictures are compared.
    settings: JobSettings,
}

impl Place {
    /// Starts a cluster, has it measure its workers and settles how the denoiser is cut.
    pub(super) async fn start(fault: Fault, steps: NonZeroU32, device: DeviceSet) -> anyhow::Result<Self> {
        let local = LocalCluster::start(LocalClusterConfig::new(Arc::new(BenchModel::Demo.store()?), 0)).await?;
        let workers = fault.workers();
        let cpus = place(workers.max(COMPONENTS.into()), 1);
        let devices = local_devices(device, Some(workers.max(COMPONENTS.into())))?;
        let processes = start_workers(&local, 1, workers, (&cpus, &devices))?;
        local.cluster().wait_for_workers(workers, JOIN_WITHIN).await?;
        let settings = settle(local.cluster(), fault.steps(steps)).await?;
        let place = Self { local, processes, cpus, devices, settings };
        make(
            &place.local,
            JobSpec { settings: JobSettings { steps: WARM_STEPS, ..place.settings.clone() }, ..place.job() },
        )
        .await?;
        Ok(place)
    }

    /// The job.
    pub(super) fn job(&self) -> JobSpec {
        JobSpec { product: Product::Picture, ..BenchModel::Demo.job(self.settings.clone()) }
    }

    pub(super) fn steps(&self) -> NonZeroU32 {
        self.settings.steps
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.local.cluster()
    }

    /// Starts another worker.
    pub(super) fn start_another(&self) -> Result<WorkerProcesses, ProcessError> {
        let there = self.processes.names().len();
        let cpus = self.cpus.get(there..).unwrap_or_default();
        start_workers(&self.local, there + 1, 1, (cpus, self.devices.get(there..).unwrap_or_default()))
    }

    pub(super) async fn end(self) {
        self.local.shutdown(STOP_WITHIN).await;
        self.processes.stop(STOP_WITHIN).await;
    }
}

pub(in crate::bench) fn start_workers(
    local: &LocalCluster,
    first: usize,
    workers: usize,
    (cpus, devices): (&[String], &[LocalDevice]),
) -> Result<WorkerProcesses, ProcessError> {
    WorkerProcesses::start(&ProcessSettings {
        first,
        cpus: cpus.to_vec(),
        devices: devices.to_vec(),
        ..ProcessSettings::new(local.join_line().to_owned(), workers)
    })
}

/// Settings that leave nothing of the picture to what a measurement found.
pub(in crate::bench) async fn settle(cluster: &Cluster, steps: NonZeroU32) -> anyhow::Result<JobSettings> {
    let wishes = Wishes {
        components: Some(COMPONENTS),
        stride: Some(NonZeroU32::MIN),
        warm_up: Some(1),
        split_guidance: Some(false),
        encoding: Some(Encoding::Full),
        ..Wishes::default()
    };
    let settings = BenchModel::Demo.settings(steps, &wishes);
    let planned = cluster.plan(&settings).await?;
    let cut = Cut::Modules(planned.choice.placed.plan.partition.module_lists(&planned.program));
    Ok(JobSettings { wishes: Wishes { cut: Some(cut), ..wishes }, ..settings })
}
