//! A cluster on this machine alone: a coordinator in this process and worker processes that join it over QUIC on
//! loopback.
//!
//! The same protocol, certificates and enrolment as between machines; the authority lives as long as the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_transport::identity::{ClusterAuthority, CoordinatorAddress, IdentityError};
use asyncdiff_transport::quic::{LinkTiming, QuicConfig, QuicNode, StartError};
use thiserror::Error;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::actors::Limits;
use crate::cluster::{Cluster, ClusterConfig, ClusterError};
use crate::local_devices::LocalDevice;
use crate::model_store::ModelStore;
use crate::worker_processes::{ExitedWorker, ProcessError, ProcessSettings, Simulation, WorkerProcesses};
use asyncdiff_common::owned_task::OwnedTask;

/// How long the join line of local workers serves. They use it in their first second; those that are started later, to see what becomes of a
/// cluster whose workers come and go, use it too.
const JOIN_LINE_VALID: Duration = Duration::from_secs(24 * 3600);

/// How long workers may take to start and join. They load nothing before a job; on a busy machine a process takes a
/// second.
const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// How long worker processes may take to end once they were told.
const END_WITHIN: Duration = Duration::from_secs(2);

/// What a local cluster is started with.
pub struct LocalClusterConfig {
    /// What pictures are made with.
    pub store: Arc<ModelStore>,
    /// A checkpoint's folder that the workers can read themselves.
    pub model: Option<String>,
    /// Worker processes; 0 if others are to join.
    pub workers: usize,
    /// What each computes on; without an entry on the CPU.
    pub devices: Vec<LocalDevice>,
    /// Threads of each.
    pub threads_per_worker: u32,
    /// The CPUs that each worker's threads are kept on, such as `0,1`; without an entry wherever the operating system likes.
    pub cpus: Vec<String>,
    /// Deadlines and bounds.
    pub limits: Limits,
    /// The program that workers are, and its arguments, if not this one: see [`ProcessSettings::program`].
    pub program: Option<(std::path::PathBuf, Vec<std::ffi::OsString>)>,
    /// What the workers are instead of this machine's devices and links.
    pub simulation: Option<Simulation>,
}

impl LocalClusterConfig {
    /// Workers of one thread each, wherever the operating system likes, with the default deadlines.
    #[must_use]
    pub fn new(store: Arc<ModelStore>, workers: usize) -> Self {
        Self {
            store,
            model: None,
            workers,
            devices: Vec::new(),
            threads_per_worker: 1,
            cpus: Vec::new(),
            limits: Limits::default(),
            program: None,
            simulation: None,
        }
    }
}

/// A running local cluster. Dropping it ends it at once; [`shutdown`](Self::shutdown) ends it in order.
pub struct LocalCluster {
    cluster: Arc<Cluster>,
    join_line: String,
    process_ids: BTreeMap<String, u32>,
    processes: OwnedTask,
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

/// Why a local cluster did not start.
#[derive(Debug, Error)]
pub enum LocalClusterError {
    /// The actors did not start, or the workers did not come.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A worker ended instead of joining.
    #[error(
        "worker {name} did not join: {reason}\nhint: if it was killed, the machine may lack memory; use fewer workers or a smaller model"
    )]
    Exited {
        /// Its name.
        name: String,
        /// How it ended, with the last lines of its log.
        reason: String,
    },
    /// The cluster's authority could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The worker processes could not be started.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The network could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl LocalCluster {
    /// Starts a coordinator and its workers, and waits until all have joined.
    pub async fn start(config: LocalClusterConfig) -> Result<Self, LocalClusterError> {
        let authority = Arc::new(ClusterAuthority::ephemeral()?);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let quic = QuicConfig {
            enrolment: Some(authority.clone()),
            limit: config.simulation.and_then(|simulation| simulation.link_limit),
            timing: if config.simulation.is_some() { LinkTiming::patient() } else { LinkTiming::default() },
            ..QuicConfig::new(authority.coordinator_identity()?, loopback)
        };
        let node = QuicNode::start(quic).await?;
        let address = CoordinatorAddress {
            host: loopback.to_string(),
            control_port: node.control_address().port(),
            data_port: node.data_address().port(),
        };
        let join_line = authority.invite(vec![address], JOIN_LINE_VALID)?.to_string();
        let settings = ProcessSettings {
            program: config.program,
            devices: config.devices,
            threads: config.threads_per_worker,
            cpus: config.cpus,
            model: config.model,
            simulation: config.simulation,
            ..ProcessSettings::new(join_line.clone(), config.workers)
        };
        let (store, limits, workers) = (config.store, config.limits, config.workers);
        let cluster = Cluster::start(ClusterConfig { network: Arc::new(node), store, jobs: None, limits }).await?;
        let mut processes = WorkerProcesses::start(&settings)?;
        tokio::select! {
            joined = cluster.wait_for_workers(workers, JOIN_WITHIN) => joined?,
            Some(ExitedWorker { name, reason }) = processes.exited() => {
                return Err(LocalClusterError::Exited { name, reason });
            }
        }
        let cluster = Arc::new(cluster);
        let process_ids = processes.ids().clone();
        let (stop, stopping) = oneshot::channel();
        let (has_stopped, stopped) = oneshot::channel();
        let watching = Arc::clone(&cluster);
        let processes = OwnedTask::spawn(async move {
            watch(&watching, &mut processes, stopping).await;
            drop(watching);
            processes.stop(END_WITHIN).await;
            // Whoever wanted to know may be gone.
            let _ = has_stopped.send(());
        });
        Ok(Self { cluster, join_line, process_ids, processes, stop, stopped })
    }

    /// The coordinator.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// What lets more workers in, for a day.
    #[must_use]
    pub fn join_line(&self) -> &str {
        &self.join_line
    }

    /// The process that each worker was started as, by its name; it may have ended since.
    #[must_use]
    pub fn process_ids(&self) -> &BTreeMap<String, u32> {
        &self.process_ids
    }

    /// Ends in order: jobs are cancelled, workers end. Takes no longer than `within` and some seconds for processes
    /// that do not listen.
    pub async fn shutdown(self, within: Duration) {
        let Self { cluster, join_line: _, process_ids: _, processes, stop, stopped } = self;
        // Jobs first, so that workers that end are no losses.
        cluster.end_jobs(Instant::now() + within).await;
        // The task is there until it is told.
        let _ = stop.send(());
        if tokio::time::timeout(END_WITHIN * 2, stopped).await.is_err() {
            tracing::warn!("local workers did not end in time and are killed");
        }
        drop(processes);
        // If the caller kept a clone, its drop ends the actors.
        if let Some(cluster) = Arc::into_inner(cluster) {
            cluster.shutdown(END_WITHIN).await;
        }
    }
}

/// Tells the cluster of workers that end by themselves, until told to stop.
async fn watch(cluster: &Cluster, processes: &mut WorkerProcesses, mut stop: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut stop => return,
            exited = processes.exited() => match exited {
                Some(ExitedWorker { name, reason }) => cluster.report_ended(&name, &reason),
                None => {
                    // All have ended; what is left is to be told to stop, by a message or by the sender's drop.
                    drop(stop.await);
                    return;
                }
            },
        }
    }
}
