//! The end of a coordinator that serves: running jobs may finish, waiting ones wait for the next start.

use std::time::Duration;

use asyncdiff_plan::JobId;

use crate::cluster::{Cluster, ClusterError};
use crate::job::JobState;

/// How long clients that waited for a job have to fetch its picture.
const FETCH: Duration = Duration::from_secs(3);

/// Starts no more jobs and waits for the running ones, no longer than `within`.
pub(super) async fn finish_jobs(cluster: &Cluster, within: Duration) {
    match tokio::time::timeout(within, wait_for_running(cluster)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(jobs)) => {
            tracing::info!(jobs, "finished while stopping");
            tokio::time::sleep(FETCH).await;
        }
        Ok(Err(error)) => tracing::warn!(%error, "jobs could not be finished"),
        Err(_) => {
            tracing::warn!(?within, "not all jobs finished in time: they go on when the coordinator is started again")
        }
    }
}

async fn wait_for_running(cluster: &Cluster) -> Result<usize, ClusterError> {
    cluster.hold();
    let jobs = cluster.jobs().await?;
    let running: Vec<JobId> = jobs.iter().filter(|job| job.state == JobState::Running).map(|job| job.id).collect();
    for &job in &running {
        cluster.events(job).await?.ended().await?;
    }
    Ok(running.len())
}
