//! A coordinator that serves the checkpoint, and worker processes that are asked to load all of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use asyncdiff_common::wire::{DType, PartSpec, WorkerRequest};
use asyncdiff_plan::JobId;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::checkpoint::{TOKENS, WIDTH};
use crate::actors::{Limits, TensorSpec, WeightCounts, WorkerHandle};
use crate::bench::jobs::{JOIN_WITHIN, STOP_WITHIN};
use crate::cluster::Cluster;
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::model_store::ModelStore;
use crate::worker_processes::{ProcessSettings, WorkerProcesses};

/// How long a worker may take to load everything.
const LOAD_WITHIN: Duration = Duration::from_secs(600);

/// How often it is looked how far a transfer has come.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The first job that parameters are loaded for: numbers that no job of the queue has.
static NEXT_JOB: AtomicU64 = AtomicU64::new(1 << 40);

/// A cluster without workers of its own.
pub(super) struct Place {
    pub(super) local: LocalCluster,
    started: usize,
}

impl Place {
    pub(super) async fn start(store: &Arc<ModelStore>, limits: Limits) -> anyhow::Result<Self> {
        let config = LocalClusterConfig { limits, ..LocalClusterConfig::new(Arc::clone(store), 0) };
        Ok(Self { local: LocalCluster::start(config).await?, started: 0 })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        self.local.cluster()
    }

    /// Starts workers, with a cache each if there are folders for them, and waits until they have joined.
    pub(super) async fn join(&mut self, workers: usize, caches: &[PathBuf]) -> anyhow::Result<WorkerProcesses> {
        let there = self.cluster().workers().await?.len();
        let processes = WorkerProcesses::start(&ProcessSettings {
            first: self.started + 1,
            caches: caches.to_vec(),
            ..ProcessSettings::new(self.local.join_line().to_owned(), workers)
        })?;
        self.started += workers;
        self.cluster().wait_for_workers(there + workers, JOIN_WITHIN).await?;
        Ok(processes)
    }

    /// The sessions of processes.
    pub(super) async fn handles(&self, processes: &WorkerProcesses) -> anyhow::Result<Vec<WorkerHandle>> {
        let handles = self.cluster().handles().await?;
        Ok(handles.into_iter().filter(|handle| processes.names().iter().any(|name| name == handle.name())).collect())
    }

    /// Has workers load everything at once. Returns how long it took.
    pub(super) async fn load(&self, processes: &WorkerProcesses, part: &PartSpec) -> anyhow::Result<Duration> {
        let handles = self.handles(processes).await?;
        let begun = Instant::now();
        try_join_all(handles.iter().map(|handle| load(handle, part))).await?;
        Ok(begun.elapsed())
    }

    /// What workers were sent so far.
    pub(super) async fn counts(&self, processes: &WorkerProcesses) -> anyhow::Result<WeightCounts> {
        let mut all = WeightCounts::default();
        for worker in self.cluster().workers().await? {
            if processes.names().contains(&worker.name) {
                all.coordinator_bytes += worker.weights.coordinator_bytes;
                all.peer_bytes += worker.weights.peer_bytes;
            }
        }
        Ok(all)
    }

    /// Has a worker load everything and kills it when it has got so many bytes.
    pub(super) async fn kill_after(
        &self,
        processes: WorkerProcesses,
        part: &PartSpec,
        bytes: u64,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + LOAD_WITHIN;
        let handles = self.handles(&processes).await?;
        let Some(handle) = handles.first() else { bail!("the worker has left") };
        let has_come = async {
            while self.counts(&processes).await?.coordinator_bytes < bytes {
                if Instant::now() > deadline {
                    bail!("the transfer did not come to its half");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::select! {
            loaded = load(handle, part) => {
                loaded?;
                bail!("everything was there before the worker could be killed");
            }
            result = has_come => result?,
        }
        drop(processes);
        self.wait_until_empty().await
    }

    pub(super) async fn stop(&self, processes: WorkerProcesses) -> anyhow::Result<()> {
        processes.stop(STOP_WITHIN).await;
        self.wait_until_empty().await
    }

    pub(super) async fn end(self) {
        self.local.shutdown(STOP_WITHIN).await;
    }

    async fn wait_until_empty(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + JOIN_WITHIN;
        while !self.cluster().workers().await?.is_empty() {
            if Instant::now() > deadline {
                bail!("workers that have ended are still there");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Has a worker load everything for a job of its own, and forget it.
pub(super) async fn load(handle: &WorkerHandle, part: &PartSpec) -> anyhow::Result<()> {
    let job = JobId(NEXT_JOB.fetch_add(1, Ordering::Relaxed));
    let body = WorkerRequest::EncodeText { job, tokens: vec![TOKENS.to_vec()], model: part.clone() };
    let tensor = TensorSpec { shape: vec![1, TOKENS.len() as u32, WIDTH], dtype: DType::F32 };
    let loaded = handle.request_tensor("loading parameters", body, tensor, LOAD_WITHIN).await;
    handle.release(job, LOAD_WITHIN);
    let failed = |error: crate::failure::JobFailed| anyhow::anyhow!("{}", error.to_error().message);
    let (_, promise) = loaded.map_err(failed)?;
    handle.promised("the text's encoding", promise, LOAD_WITHIN).await.map_err(failed)?;
    Ok(())
}
