//! `coordinator run`: a picture here and now. A coordinator in this process, workers in processes of their own, all ended at the end.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_model::kernels::{CudaError, DeviceSet};
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
use crate::local_devices::local_devices;
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

    /// Local worker processes [default: one for each GPU that computes; 2 on the CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=WORKERS_LIMIT), help_heading = "Workers")]
    workers: Option<u16>,

    /// What they compute on: cpu, cuda for all GPUs that CUDA_VISIBLE_DEVICES leaves, or cuda:N for one of them; more workers than GPUs share them
    #[arg(long, value_name = "DEVICE", default_value_t, help_heading = "Workers")]
    device: DeviceSet,

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
    let devices = local_devices(args.device, args.workers.map(usize::from)).map_err(unusable)?;
    let workers = devices.len();
    let threads = args.threads_per_worker.unwrap_or_else(|| threads_per_worker(workers));
    progress.say(&format!("starting {}, each with {}", count(workers, "worker"), count(threads as usize, "thread")));
    let local = LocalCluster::start(LocalClusterConfig {
        model: args.model.clone(),
        devices,
        threads_per_worker: threads,
        cpus: cpus(args.cpus.as_deref(), workers, threads as usize)?,
        limits: config.limits,
        ..LocalClusterConfig::new(store, workers)
    });
    Ok((local.await?, request))
}

/// Why there are no GPUs to compute on.
fn unusable(error: CudaError) -> Failure {
    let code = if error.is_hardware() { ExitCode::Hardware } else { ExitCode::Operator };
    Failure::new(code, format!("cannot compute on a GPU: {error}"))
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

fn threads_per_worker(workers: usize) -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    (cores / workers.max(1)).max(1) as u32
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
