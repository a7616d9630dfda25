//! The ways in which golden runs are made: all must give the same bits.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use asyncdiff_model::kernels::DeviceSet;
use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::SimulatedNetwork;

use super::runs::Case;
use crate::actors::Limits;
use crate::cluster::{Cluster, ClusterConfig};
use crate::denoise::Denoised;
use crate::in_process::run_in_process;
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_devices::local_devices;
use crate::local_workers::{Pace, SimulatedWorker};
use crate::model_store::{FormulaModel, ModelStore};

/// How long workers may take to join: simulated ones take microseconds, processes enrol in a fraction of a second.
const JOIN_WITHIN: Duration = Duration::from_secs(30);

/// How long a cluster may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Threads of each worker process: the bits do not depend on it.
const THREADS_PER_WORKER: u32 = 1;

/// How golden runs are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Engine and inboxes in one thread, without links
    InProcess,
    /// Worker processes on this machine, over QUIC
    Processes,
    /// Coordinator and workers in this process, on simulated links
    Simulated,
}

/// Makes runs of one model.
pub(super) enum Runner {
    InProcess(Arc<ModelStore>),
    Processes(LocalCluster),
    Simulated { cluster: Box<Cluster>, workers: Vec<SimulatedWorker> },
}

impl Runner {
    /// Starts what the way needs: `workers` workers, so that every slot of a plan has one.
    pub(super) async fn start(
        (way, device): (Way, DeviceSet),
        model: FormulaModel,
        workers: usize,
    ) -> anyhow::Result<Self> {
        if way != Way::Processes && device != DeviceSet::Cpu {
            bail!("runs are made on {device} by worker processes only: `--way processes`");
        }
        let store = Arc::new(ModelStore::formula(model)?);
        match way {
            Way::InProcess => Ok(Self::InProcess(store)),
            Way::Processes => {
                let config = LocalClusterConfig {
                    devices: local_devices(device, Some(workers))?,
                    threads_per_worker: THREADS_PER_WORKER,
                    ..LocalClusterConfig::new(store, workers)
                };
                Ok(Self::Processes(LocalCluster::start(config).await?))
            }
            Way::Simulated => {
                let hub = SimulatedNetwork::new();
                let network = hub.process(PeerName::Coordinator);
                let cluster =
                    Cluster::start(ClusterConfig { network, store, jobs: None, limits: Limits::default() }).await?;
                let start = |index| SimulatedWorker::start(&hub, &format!("worker-{index}"), Pace::Instant);
                let workers: Vec<_> = (0..workers).map(start).collect::<Result<_, _>>()?;
                cluster.wait_for_workers(workers.len(), JOIN_WITHIN).await?;
                Ok(Self::Simulated { cluster: Box::new(cluster), workers })
            }
        }
    }

    /// Makes a run; tells also how many bytes per step went over NCCL, if any did.
    pub(super) async fn run(&self, case: &Case) -> anyhow::Result<(Denoised, Option<f64>)> {
        match self {
            Self::InProcess(store) => {
                let (store, spec, slots) = (Arc::clone(store), case.spec.clone(), case.slots);
                let computing = tokio::task::spawn_blocking(move || run_in_process(&store, spec, slots));
                Ok((computing.await??, None))
            }
            Self::Processes(local) => submit(local.cluster(), case).await,
            Self::Simulated { cluster, .. } => submit(cluster, case).await,
        }
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        match self {
            Self::InProcess(_) => {}
            Self::Processes(local) => local.shutdown(STOP_WITHIN).await,
            Self::Simulated { cluster, workers } => {
                cluster.shutdown(STOP_WITHIN).await;
                for worker in workers {
                    worker.leave().await;
                }
            }
        }
    }
}

async fn submit(cluster: &Cluster, case: &Case) -> anyhow::Result<(Denoised, Option<f64>)> {
    let job = cluster.submit(case.spec.clone()).await?;
    let id = job.id;
    let record = job.ended().await?;
    if let Some(error) = record.error {
        bail!("{}; {}", error.message, error.hint);
    }
    let outcome = cluster.outcome(id).await?.context("the job ended without an outcome")?;
    let denoised = Denoised { latents: outcome.latents.1.clone(), last_prediction: outcome.last_prediction.clone() };
    let by_nccl = record.summary.map(|summary| summary.nccl_bytes_per_step).filter(|&bytes| bytes > 0.0);
    Ok((denoised, by_nccl))
}
