//! `coordinator submit`: a job for a running coordinator, its progress, its picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use asyncdiff_common::config::parse_duration;
use asyncdiff_common::exit::ExitCode;
use asyncdiff_plan::JobId;
use clap::Args;

use super::follow::{Results, done};
use super::patience::Patience;
use super::signals::Signals;
use crate::api::{ClientError, NewJob};
use crate::cli::{ConnectArgs, Failure, JobArgs, OutputArgs, print_line};
use crate::job::JobRecord;
use crate::render::{Alone, Progress};

/// Arguments of `submit`.
#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    /// What the picture shows
    prompt: String,

    #[command(flatten)]
    job: JobArgs,

    #[command(flatten)]
    output: OutputArgs,

    /// Print the job's id and end; `coordinator job ID` says how it goes
    #[arg(long, conflicts_with_all = ["out"])]
    no_wait: bool,

    /// Take the job once, however often it is submitted under this key: letters, digits, `-` and `_`
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// Give the job up if it is not done that long after it is submitted [default: deadlines.job of the coordinator, a day]
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    deadline: Option<u32>,

    /// How long the job waits for workers if it has lost those that it had [default: deadlines.wait_for_workers of the coordinator, 10 minutes]
    #[arg(long, value_name = "DURATION", value_parser = parse_seconds)]
    wait_for_workers: Option<u32>,

    /// How long to wait for a coordinator that goes away meanwhile: it keeps its jobs and goes on with them
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "60s")]
    reconnect_for: Duration,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Submits, waits, fetches.
pub(crate) async fn run(args: SubmitArgs) -> Result<ExitCode, Failure> {
    let path = args.output.picture_path(&args.prompt)?;
    let mut signals = Signals::new()?;
    let job = submit(&args).await?;
    if args.no_wait {
        let json = serde_json::json!({ "job": job });
        print_line(&if args.output.json { json.to_string() } else { job.id.to_string() })?;
        return Ok(ExitCode::Ok);
    }
    tokio::select! {
        delivered = wait_and_deliver((&args.connect, job.id), args.reconnect_for, path, args.output.trace.as_deref(), args.output.json) => delivered?,
        () = signals.next() => return Err(interrupted(&args.connect, &job).await),
    }
    Ok(ExitCode::Ok)
}

/// Submits the job. If the answer is lost, asks again by the job's key, under which it is taken once.
async fn submit(args: &SubmitArgs) -> Result<JobRecord, Failure> {
    let key = Some(args.key.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())));
    let mut new = NewJob { key, ..args.job.job(&args.prompt, args.output.trace.is_some()) };
    (new.settings.deadline_seconds, new.settings.wait_for_workers_seconds) = (args.deadline, args.wait_for_workers);
    match args.connect.client().await?.submit(&new).await {
        // It was there, and may be again; one that is not there at all is not waited for.
        Err(ClientError::Broken { .. } | ClientError::TimedOut { .. }) => {
            let patience = Patience { connect: &args.connect, job: None, within: args.reconnect_for };
            patience.ask(async |client| client.submit(&new).await).await
        }
        answer => Ok(answer?),
    }
}

/// Follows a job to its end, fetches what it left and writes it to files.
pub(super) async fn wait_and_deliver(
    (connect, id): (&ConnectArgs, JobId),
    within: Duration,
    path: PathBuf,
    trace: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let patience = Patience { connect, job: Some(id), within };
    let job = done(patience.follow(id, &mut Progress::new()).await?)?;
    let picture = patience.ask(async |client| client.picture(job.id).await).await?;
    let trace = match trace {
        Some(path) => Some((path, patience.ask(async |client| client.trace(job.id).await).await?)),
        None => None,
    };
    Results { job: &job, picture: (path, picture), trace, alone: Alone::Predicted }.deliver(json)
}

/// Somebody who stops waiting does not want the picture any more; `--no-wait` is for those who do.
async fn interrupted(connect: &ConnectArgs, job: &JobRecord) -> Failure {
    let cancelled = match connect.client().await {
        Ok(client) => client.cancel(job.id).await.map_err(Failure::from),
        Err(away) => Err(away),
    };
    match cancelled {
        Ok(_) => Failure::interrupted(format!("interrupted; {} was cancelled", job.id)),
        Err(error) => Failure::interrupted(format!("interrupted; {} could not be cancelled: {error}", job.id)),
    }
}

fn parse_seconds(text: &str) -> Result<u32, String> {
    let seconds = parse_duration(text).and_then(|duration| u32::try_from(duration.as_secs()).ok());
    let seconds = seconds.filter(|&seconds| seconds > 0);
    seconds.ok_or_else(|| "a duration of a second or more is needed, such as 60s or 10m".to_owned())
}

pub(super) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration is needed, such as 60s or 10m".to_owned())
}
