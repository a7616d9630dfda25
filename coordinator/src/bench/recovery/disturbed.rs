//! A job and the same with a fault in its middle.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use asyncdiff_plan::JobId;
use tokio::sync::broadcast::error::RecvError;

use super::fault::{Fault, Moment, Signaller};
use super::place::Place;
use super::report::Outcome;
use super::timeline::Timeline;
use crate::actors::WorkerRecord;
use crate::bench::jobs::JOB_WITHIN;
use crate::bench::likeness::{decibels, pixels};
use crate::cluster::JobHandle;
use crate::job::{JobEvent, JobRecord, JobState};
use crate::worker_processes::WorkerProcesses;

/// What was done, and what is left of it.
struct Done {
    at: Instant,
    /// From the start of a process until the coordinator can use it.
    ready: Option<Duration>,
    /// Continues what was stopped.
    undo: Option<Signaller>,
    _joined: Option<WorkerProcesses>,
}

/// Makes the job twice, the second time with a fault.
pub(super) async fn measure(place: &Place, fault: Fault, moment: Moment) -> anyhow::Result<Outcome> {
    let (undisturbed, _) = within(follow(place.cluster().submit(place.job()).await?)).await?;
    if let Some(error) = &undisturbed.error {
        bail!("an undisturbed job failed: {}\nhint: {}", error.message, error.hint);
    }
    let summary = undisturbed.summary.as_ref().context("a job ended without a summary")?;
    let step = Duration::from_secs_f64(summary.denoise_seconds / f64::from(summary.steps.max(1)));
    let handle = place.cluster().submit(place.job()).await?;
    let mut watched = place.cluster().events(handle.id).await?;
    let both = async { tokio::try_join!(follow(handle), disturb(place, fault, moment.within(step), &mut watched)) };
    let ((record, timeline), done) = within(both).await?;
    if let Some(undo) = done.undo {
        undo.send().await?;
    }
    let total = |record: &JobRecord| record.summary.as_ref().map(|summary| summary.total_seconds);
    let completed = record.state == JobState::Done;
    Ok(Outcome {
        completed,
        error: record.error.as_ref().map(|error| error.message.clone()),
        noticed: timeline.noticed(done.at).filter(|_| !record.recoveries.is_empty()),
        resumed: timeline.resumed(done.at),
        pause: timeline.pause(done.at).filter(|_| completed),
        ready: done.ready,
        undisturbed_seconds: summary.total_seconds,
        extra_seconds: total(&record).map(|seconds| seconds - summary.total_seconds),
        refreshes: refreshes(&record),
        decibels: if completed { Some(compare(place, undisturbed.id, record.id).await?) } else { None },
    })
}

async fn within<T>(job: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let ended = tokio::time::timeout(JOB_WITHIN, job).await;
    ended.with_context(|| format!("a job did not end within {JOB_WITHIN:?}"))?
}

/// Notes what is heard of a job until its end.
async fn follow(mut handle: JobHandle) -> anyhow::Result<(JobRecord, Timeline)> {
    let mut timeline = Timeline::default();
    timeline.note(&handle.record, Instant::now());
    loop {
        match handle.events.recv().await {
            Ok(JobEvent::Changed { job }) => timeline.note(&job, Instant::now()),
            Ok(JobEvent::Ended { job }) => return Ok((*job, timeline)),
            Err(RecvError::Lagged(_)) => bail!("this machine is too busy to follow a job\nhint: end what runs beside"),
            Err(RecvError::Closed) => bail!("the coordinator has stopped"),
        }
    }
}

/// Waits for the step, and for the moment in it, and does to a worker of the job what is to be done.
async fn disturb(place: &Place, fault: Fault, within_step: Duration, watched: &mut JobHandle) -> anyhow::Result<Done> {
    let after = fault.after_step(place.steps());
    let signal = match fault {
        Fault::Drained | Fault::Joined => None,
        Fault::Killed => Some("KILL"),
        Fault::Stopped => Some("STOP"),
    };
    let (mut victim, mut signaller, mut before) = (None, None, None);
    loop {
        let job = match watched.events.recv().await {
            Ok(JobEvent::Changed { job }) => job,
            Ok(JobEvent::Ended { .. }) => bail!("a job ended before its fault\nhint: let it take more --steps"),
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => bail!("the coordinator has stopped"),
        };
        if job.progress.0 >= after.max(1) && (victim.is_some() || fault == Fault::Joined) {
            break;
        }
        // Whom it hits is settled before, for asking takes time.
        if job.progress.0 > 0 && victim.is_none() && fault != Fault::Joined {
            let workers = place.cluster().workers().await?;
            victim = before.as_deref().and_then(|before| predicting(before, &workers));
            signaller =
                victim.as_ref().zip(signal).map(|(found, signal)| Signaller::new(signal, found.1)).transpose()?;
            before.get_or_insert(workers);
        }
    }
    tokio::time::sleep(within_step).await;
    let at = Instant::now();
    let mut done = Done { at, ready: None, undo: None, _joined: None };
    match (fault, victim, signaller) {
        (Fault::Killed | Fault::Stopped, Some((_, process_id)), Some(signaller)) => {
            signaller.send().await?;
            done.undo = if fault == Fault::Stopped { Some(Signaller::new("CONT", process_id)?) } else { None };
        }
        (Fault::Drained, Some((name, _)), _) => {
            ensure!(place.cluster().drain(&name).await?, "worker {name} has left before it was drained");
        }
        (Fault::Joined, ..) => {
            done._joined = Some(place.start_another()?);
            place.cluster().wait_for_workers(fault.workers() + 1, JOB_WITHIN).await?;
            done.ready = Some(at.elapsed());
        }
        _ => bail!("nobody had a part of the job when its fault was due\nhint: let it take more --steps"),
    }
    Ok(done)
}

/// Name and process of the worker that made noise predictions in between: without it no step is finished. Others of the job's ranks may have
/// nothing to do in its plan.
fn predicting(before: &[WorkerRecord], now: &[WorkerRecord]) -> Option<(String, u32)> {
    let made = |worker: &WorkerRecord| {
        let known = before.iter().find(|other| other.name == worker.name);
        worker.tensors.noise_predictions > known.map_or(0, |known| known.tensors.noise_predictions)
    };
    now.iter().find(|worker| made(worker)).map(|worker| (worker.name.clone(), worker.process_id))
}

/// Steps that were exact because the plan had changed; two changes before one step share it.
fn refreshes(record: &JobRecord) -> usize {
    let recoveries = record.recoveries.iter().map(|recovery| recovery.step);
    let steps: BTreeSet<u32> = recoveries.chain(record.moves.iter().map(|moved| moved.step)).collect();
    steps.range(..record.progress.1).count()
}

/// How alike two jobs' pictures are.
async fn compare(place: &Place, one: JobId, other: JobId) -> anyhow::Result<f64> {
    decibels(&pixels(place.cluster(), one).await?, &pixels(place.cluster(), other).await?)
}
