//! `coordinator submit`: a job for a running coordinator, its progress, its picture.

use std::path::{Path, PathBuf};
use std::time::Duration;

use asyncdiff_common::config::parse_duration;
use asyncdiff_common::exit::ExitCode;
use clap::Args;

use super::follow::{Results, done};
use super::patience::Patience;
use super::signals::Signals;
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

    /// How long to wait for a coordinator that goes away meanwhile: it keeps its jobs and goes on with them
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "60s")]
    reconnect_for: Duration,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Submits, waits, fetches.
pub(crate) async fn run(args: SubmitArgs) -> Result<ExitCode, Failure> {
    let path = args.output.picture_path(&args.prompt)?;
    let client = args.connect.client().await?;
    let mut signals = Signals::new()?;
    let job = client.submit(&args.job.job(&args.prompt, args.output.trace.is_some())).await?;
    if args.no_wait {
        let json = serde_json::json!({ "job": job });
        print_line(&if args.output.json { json.to_string() } else { job.id.to_string() })?;
        return Ok(ExitCode::Ok);
    }
    let patience = Patience { connect: &args.connect, job: job.id, within: args.reconnect_for };
    tokio::select! {
        delivered = wait_and_deliver(&patience, path, args.output.trace.as_deref(), args.output.json) => delivered?,
        () = signals.next() => return Err(interrupted(&args.connect, &job).await),
    }
    Ok(ExitCode::Ok)
}

/// Follows a job to its end, fetches what it left and writes it to files.
pub(super) async fn wait_and_deliver(
    patience: &Patience<'_>,
    path: PathBuf,
    trace: Option<&Path>,
    json: bool,
) -> Result<(), Failure> {
    let job = done(patience.follow(&mut Progress::new()).await?)?;
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

pub(super) fn parse_wait(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration is needed, such as 60s or 10m".to_owned())
}
