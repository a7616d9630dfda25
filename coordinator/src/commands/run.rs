//! `coordinator run`: a picture here and now. A coordinator in this process, workers in processes of their own, all ended at the end.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_model::kernels::DeviceChoice;
use asyncdiff_plan::Wishes;
use bytes::Bytes;
use clap::Args;

use super::follow::{Results, done, follow};
use super::signals::Signals;
use super::store::open_store;
use crate::api::{ApiError, event_stream};
use crate::cli::{Failure, JobArgs, OutputArgs};
use crate::cluster::Cluster;
use crate::job::{JobRecord, JobRequest, JobSettings};
use crate::job_spec::{JobOutcome, JobSpec};
use crate::local_cluster::{LocalCluster, LocalClusterConfig};
use crate::local_cpus::{place, share_out};
use crate::render::{Alone, Progress, chrome_trace};
use crate::serve_config::ServeConfig;

/// The most local workers: beyond that a machine is better used by more threads.
const WORKERS_LIMIT: i64 = 256;

/// How long the workers may take to end.
const CLOSING: Duration = Duration::from_secs(5);

/// Arguments of `run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// What the picture shows
    prompt: String,

    #[command(flatten)]
    job: JobArgs,

    /// The checkpoint: a folder in the diffusers layout or a hub id [default: the embedded demo model]
    #[arg(long, value_name = "PATH|HUB_ID", env = "ASYNCDIFF_MODEL", help_heading = "Picture")]
    model: Option<String>,

    /// Local worker processes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=WORKERS_LIMIT), help_heading = "Workers")]
    workers: u16,

    /// What each of them computes on: cpu, cuda for the first GPU, or cuda:N for another; all on the same one
    #[arg(long, value_name = "DEVICE", default_value_t, help_heading = "Workers")]
    device: DeviceChoice,

    /// Threads that each of them computes with [default: cores divided by workers, at least 1]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Workers")]
    threads_per_worker: Option<u32>,

    /// CPUs that the workers' threads are kept on, one each, such as 0-3; `any` for wherever the operating system likes [default: a core for each thread where there are enough]
    #[arg(long, value_name = "LIST|any", help_heading = "Workers")]
    cpus: Option<String>,

    #[command(flatten)]
    output: OutputArgs,

    /// Make the picture a second time with one worker alone, to measure the speed-up instead of predicting it
    #[arg(long, help_heading = "Output")]
    compare: bool,
}

/// Makes the picture.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let path = args.output.picture_path(&args.prompt)?;
    let mut progress = Progress::new();
    let interrupted = || Failure::interrupted("interrupted; nothing was written");
    let (local, request) = tokio::select! {
        started = start(&args, &progress) => started?,
        // What has been started ends with it.
        () = signals.next() => return Err(interrupted()),
    };
    let made = tokio::select! {
        made = jobs(local.cluster(), &request, args.compare, &mut progress) => made,
        () = signals.next() => Err(interrupted()),
    };
    let delivered = made.and_then(|made| deliver(&args, path, &made));
    // Cancels the job if it still runs.
    local.shutdown(CLOSING).await;
    delivered.map(|()| ExitCode::Ok)
}

/// Checks what can be checked, then starts coordinator and workers.
async fn start(args: &RunArgs, progress: &Progress) -> Result<(LocalCluster, JobRequest), Failure> {
    let mut config = ServeConfig::load(None)?;
    config.model.clone_from(&args.model);
    let request = args.job.job(&args.prompt, args.output.trace.is_some()).complete(&config.job_defaults())?;
    let store = open_store(args.model.clone()).await?;
    // What the model cannot make is refused before workers are started.
    store.planning_setup(&request.settings)?;
    let threads = args.threads_per_worker.unwrap_or_else(|| threads_per_worker(args.workers));
    progress.say(&format!("starting {}, each with {}", count(args.workers.into(), "worker"), count(threads, "thread")));
    let local = LocalCluster::start(LocalClusterConfig {
        model: args.model.clone(),
        device: args.device,
        threads_per_worker: threads,
        cpus: cpus(args.cpus.as_deref(), usize::from(args.workers), threads as usize)?,
        limits: config.limits,
        ..LocalClusterConfig::new(store, args.workers.into())
    });
    Ok((local.await?, request))
}

fn deliver(args: &RunArgs, path: PathBuf, ((job, outcome), alone): &Made) -> Result<(), Failure> {
    let lost = || Failure::new(ExitCode::Bug, format!("{} is done and left no picture", job.id));
    let picture = outcome.picture.clone().ok_or_else(lost)?;
    let trace = outcome.trace.as_ref().map(|trace| Bytes::from(chrome_trace(trace)));
    let trace = args.output.trace.as_deref().zip(trace);
    Results { job, picture: (path, picture), trace, alone: *alone }.deliver(args.output.json)
}

/// A job that is done with what it left, and how long one worker alone takes.
type Made = ((JobRecord, Arc<JobOutcome>), Alone);

/// The job, and with `compare` the same again with one component on one worker.
async fn jobs(
    cluster: &Cluster,
    request: &JobRequest,
    compare: bool,
    progress: &mut Progress,
) -> Result<Made, Failure> {
    let made = one_job(cluster, request.clone(), progress).await?;
    if !compare {
        return Ok((made, Alone::Predicted));
    }
    progress.say("once more with one worker alone");
    let wishes = Wishes { components: Some(1), split_guidance: Some(false), ..Wishes::default() };
    let settings = JobSettings { wishes, trace: false, ..request.settings.clone() };
    let (alone, _) = one_job(cluster, JobRequest { settings, ..request.clone() }, &mut Progress::new()).await?;
    let measured = alone.summary.map(|summary| Alone::Measured(summary.denoise_seconds));
    Ok((made, measured.unwrap_or(Alone::Predicted)))
}

async fn one_job(
    cluster: &Cluster,
    request: JobRequest,
    progress: &mut Progress,
) -> Result<(JobRecord, Arc<JobOutcome>), Failure> {
    let handle = cluster.submit(JobSpec::from(request)).await?;
    let events = futures_util::StreamExt::map(event_stream(handle), Ok::<_, ApiError>);
    let stopped = || Failure::new(ExitCode::Bug, "the coordinator's actors ended before the job did");
    let job = done(follow(events, progress).await?.ok_or_else(stopped)?)?;
    let outcome = cluster.outcome(job.id).await?;
    let lost = || Failure::new(ExitCode::Bug, format!("the picture of {} is not there", job.id));
    let outcome = outcome.ok_or_else(lost)?;
    Ok((job, outcome))
}

/// The CPUs of each worker, as `worker join --cpus` takes them.
fn cpus(asked: Option<&str>, workers: usize, threads: usize) -> Result<Vec<String>, Failure> {
    match asked {
        None => Ok(place(workers, threads)),
        Some("any") => Ok(Vec::new()),
        Some(list) => share_out(list, workers, threads).map_err(Failure::operator),
    }
}

fn threads_per_worker(workers: u16) -> u32 {
    let cores = std::thread::available_parallelism()
        .map_or(NonZeroU32::MIN, |cores| NonZeroU32::try_from(cores).unwrap_or(NonZeroU32::MIN));
    (cores.get() / u32::from(workers)).max(1)
}

fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
