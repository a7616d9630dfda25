//! The jobs of a soak: one after the other, and some at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::bench::jobs::JOB_WITHIN;
use crate::bench::likeness::{decibels, pixels};
use crate::cluster::Cluster;
use crate::job::JobState;
use crate::job_spec::JobSpec;

/// A job that has ended, or was given up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Recoveries and moves.
    pub(super) changes: usize,
    /// How alike its picture is to the undisturbed one; infinite if they are equal. Else why there is none.
    pub(super) picture: Result<f64, String>,
}

/// What all jobs are, and what becomes of one that nothing disturbs.
pub(super) struct Order {
    pub(super) spec: JobSpec,
    pub(super) pixels: Vec<u8>,
}

/// Makes jobs, one after the other, until the time is over or so many are made.
pub(super) async fn make(
    (cluster, order): (&Cluster, &Order),
    until: Instant,
    at_most: usize,
    made: &AtomicUsize,
) -> Vec<Seen> {
    let mut all = Vec::new();
    while Instant::now() < until && all.len() < at_most {
        let seen = make_one(cluster, order).await;
        let was_lost = seen.picture.is_err();
        all.push(seen);
        made.fetch_add(1, Ordering::Relaxed);
        if was_lost {
            // One is enough to fail, and a cluster that makes no pictures any more shall not be asked without a pause.
            break;
        }
    }
    all
}

async fn make_one(cluster: &Cluster, order: &Order) -> Seen {
    let began = Instant::now();
    let mut changes = 0;
    let making = async {
        let record = cluster.submit(order.spec.clone()).await?.ended().await?;
        changes = record.recoveries.len() + record.moves.len();
        match (record.state, record.error) {
            (JobState::Done, _) => decibels(&pixels(cluster, record.id).await?, &order.pixels),
            (state, error) => anyhow::bail!("{} is {state:?}: {error:?}", record.id),
        }
    };
    let picture = match tokio::time::timeout(JOB_WITHIN, making).await {
        Ok(made) => made.map_err(|error| format!("{error:#}")),
        Err(_) => Err(format!("a job did not end within {JOB_WITHIN:?}")),
    };
    Seen { began, ended: Instant::now(), changes, picture }
}
