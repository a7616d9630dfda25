//! `worker join`: from a join line to members that work, one for each device.
//!
//! ```text
//!   devices ─┬─ home ── membership ── Member ─► its own network, certificate and device thread
//!            └─ home ── membership ── Member ─► …                         checkpoint and cache are one for all
//! ```
//!
//! Workers of one process are as strangers to each other: a GPU that fails takes no other one's work with it. A process whose last worker has
//! left ends with the first failure's exit code, if there was one.

use std::num::NonZeroU32;

use asyncdiff_transport::identity::JoinedCluster;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::Instrument;

use super::device::ChosenDevice;
use super::home::{self, Home};
use super::member::{Ending, Member, Place};
use super::{CliError, JoinOptions, Lifetime, membership};
use crate::WorkerError;
use crate::run::open_local_weights;
use crate::weights::LocalWeights;

/// Joins and works until `lifetime` ends, or every worker has ended by itself.
pub(super) async fn join(options: JoinOptions, lifetime: Lifetime) -> Result<(), CliError> {
    let (drain, draining) = watch::channel(false);
    let (stop, stopping) = watch::channel(false);
    let shutdown = lifetime.shutdown(drain)?;
    tokio::pin!(shutdown);
    // Before anybody is told that there is a worker.
    let devices = match options.simulation.paced {
        Some(flops_per_second) => ChosenDevice::paced(flops_per_second, options.simulation.paced_devices),
        None => ChosenDevice::find(options.device).map_err(WorkerError::from)?,
    };
    let workers = NonZeroU32::new(devices.len() as u32).unwrap_or(NonZeroU32::MIN);
    let homes = home::open(options.state_dir.as_deref(), workers)?;
    let mut is_draining = draining.clone();
    let joined = tokio::select! {
        joined = obtain_all(&homes, &options) => joined?,
        () = &mut shutdown => return Ok(()),
        _ = is_draining.wait_for(|drain| *drain) => return Ok(()),
    };
    let local = open_local_weights(options.model.clone(), options.cache()).await?;
    let mut members = Vec::new();
    for ((device, joined), number) in devices.into_iter().zip(joined).zip(1..) {
        members.push(Member::start(&options, Place { number, workers }, device, joined).await?);
    }
    let ending = Ending { drain: draining, stop: stopping };
    let mut running: JoinSet<_> =
        members.into_iter().map(|member| run(member, workers, local.clone(), ending.clone())).collect();
    let mut first_failure = Ok(());
    loop {
        tokio::select! {
            () = &mut shutdown, if !*stop.borrow() => drop(stop.send_replace(true)),
            ended = running.join_next() => match ended {
                None => return first_failure,
                Some(ended) => first_failure = first_failure.and(of_worker(ended, running.len())),
            },
        }
    }
}

/// A worker's life. One of several is named in its log and in what it fails by.
async fn run(member: Member, workers: NonZeroU32, local: LocalWeights, ending: Ending) -> Result<(), CliError> {
    if workers == NonZeroU32::MIN {
        return member.run(local, ending).await;
    }
    let worker = member.name();
    let span = tracing::info_span!("process", %worker);
    let ended = member.run(local, ending).instrument(span).await;
    ended.map_err(|error| CliError::OneOfSeveral { worker, error: Box::new(error) })
}

/// How a worker ended. What the last one failed by is said by the process's end.
fn of_worker(ended: Result<Result<(), CliError>, JoinError>, others: usize) -> Result<(), CliError> {
    let bug = |error: JoinError| WorkerError::Bug { part: "task", reason: error.to_string() };
    let ended = ended.map_err(|error| CliError::from(bug(error))).flatten();
    match &ended {
        Ok(()) if others > 0 => tracing::info!(others, "a worker of this process has left; the others go on"),
        Err(error) if others > 0 => {
            tracing::error!(%error, others, "a worker of this process has failed; the others go on")
        }
        Ok(()) | Err(_) => {}
    }
    ended
}

/// A membership for each worker, one after the other, so that numbers of default names follow those of devices.
async fn obtain_all(homes: &[Home], options: &JoinOptions) -> Result<Vec<JoinedCluster>, CliError> {
    let token = membership::token(options)?;
    let mut joined = Vec::with_capacity(homes.len());
    for (home, number) in homes.iter().zip(1..) {
        let name = membership::name_of(options.name.as_ref(), number);
        joined.push(membership::obtain(home, token.as_ref(), name.as_ref()).await?);
    }
    Ok(joined)
}
