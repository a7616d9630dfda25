//! The coordinator: denoising loop, queue, membership, client API, command line.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod actors;
pub mod api;
pub mod bench;
pub mod cli;
mod cluster;
mod commands;
pub mod denoise;
mod failure;
mod in_process;
pub mod job;
mod job_spec;
mod job_store;
mod local_cluster;
mod local_cpus;
mod local_devices;
pub mod local_workers;
mod model_store;
pub mod picture;
pub mod render;
mod serve_config;
pub mod verify;
mod worker_processes;

pub use actors::{Limits, SubmitRefused, TensorCounts, WeightCounts, WorkerPart, WorkerRecord, WorkerState};
pub use cluster::{Cluster, ClusterConfig, ClusterError, JobHandle, PlannedJob};
pub use failure::{JobFailed, split_hint};
pub use in_process::{run_in_process, run_replanned_in_process};
pub use job_spec::{ConditionTensor, Conditions, InitialLatents, JobOutcome, JobSpec, JobTrace, Product, TraceTrack};
pub use job_store::{Disk, JobFiles, JobStore, JobStoreError, Recovered};
pub use local_cluster::{LocalCluster, LocalClusterConfig, LocalClusterError};
pub use local_devices::LocalDevice;
pub use model_store::{FormulaModel, ModelStore, StoreError, demo_checkpoint};
pub use worker_processes::{ExitedWorker, LOCAL_WORKER, ProcessError, ProcessSettings, Simulation, WorkerProcesses};
