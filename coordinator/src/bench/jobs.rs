//! Jobs of a benchmark on a local cluster.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::job::JobSummary;
use crate::job_spec::JobSpec;
use crate::local_cluster::LocalCluster;

/// How long ending a cluster may take.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Makes a job and says how it went.
pub(super) async fn make(local: &LocalCluster, spec: JobSpec) -> anyhow::Result<JobSummary> {
    let record = local.cluster().submit(spec).await?.ended().await?;
    if let Some(error) = record.error {
        bail!("{}\nhint: {}", error.message, error.hint);
    }
    record.summary.context("the job ended without a summary")
}
