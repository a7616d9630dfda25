//! The end of a coordinator that serves: the running job may finish, waiting ones are cancelled.

use std::time::Duration;

use asyncdiff_plan::JobId;

use crate::cluster::{Cluster, ClusterError};
use crate::job::JobState;

/// How long clients that waited for a job have to fetch its picture.
const FETCH: Duration = Duration::from_secs(3);

/// Cancels waiting jobs and waits for the running one, no longer than `within`.
pub(super) async fn finish_jobs(cluster: &Cluster, within: Duration) {
    match tokio::time::timeout(within, wait_for_running(cluster)).await {
        Ok(Ok(Some(job))) => {
            tracing::info!(%job, "finished while stopping");
            tokio::time::sleep(FETCH).await;
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "jobs could not be finished"),
        Err(_) => tracing::warn!(?within, "a job is cancelled: it did not finish in time"),
    }
}

async fn wait_for_running(cluster: &Cluster) -> Result<Option<JobId>, ClusterError> {
    let mut running = None;
    for job in cluster.jobs().await? {
        match job.state {
            JobState::Queued => {
                cluster.cancel(job.id).await?;
            }
            JobState::Running => running = Some(job.id),
            JobState::Cancelled | JobState::Done | JobState::Failed => {}
        }
    }
    if let Some(job) = running {
        cluster.events(job).await?.ended().await?;
    }
    Ok(running)
}
