//! Jobs of a benchmark on a local cluster.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::job::{JobRecord, JobSummary};
use crate::job_spec::{JobSpec, JobTrace};
use crate::local_cluster::LocalCluster;

/// How long workers may take to join.
pub(super) const JOIN_WITHIN: Duration = Duration::from_secs(60);

/// How long a job may take, the time in the queue and what is done to its workers included: many times what it takes on a busy machine, so that one
/// that hangs ends the benchmark.
pub(super) const JOB_WITHIN: Duration = Duration::from_secs(300);

/// How long ending a cluster may take.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Makes a job that is traced, and gives its trace.
pub(super) async fn make_traced(local: &LocalCluster, spec: JobSpec) -> anyhow::Result<JobTrace> {
    let record = local.cluster().submit(spec).await?.ended().await?;
    let id = record.id;
    summary(record)?;
    let outcome = local.cluster().outcome(id).await?.context("the job ended without an outcome")?;
    outcome.trace.clone().context("the job ended without a trace")
}

/// Makes a job and says how it went.
pub(super) async fn make(local: &LocalCluster, spec: JobSpec) -> anyhow::Result<JobSummary> {
    summary(local.cluster().submit(spec).await?.ended().await?)
}

fn summary(record: JobRecord) -> anyhow::Result<JobSummary> {
    if let Some(error) = record.error {
        bail!("{}\nhint: {}", error.message, error.hint);
    }
    record.summary.context("the job ended without a summary")
}
