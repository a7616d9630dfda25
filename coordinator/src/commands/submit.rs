//! `coordinator submit`: a job for a running coordinator, its progress, its picture.

use asyncdiff_common::exit::ExitCode;
use clap::Args;

use super::follow::{Results, done, follow};
use super::signals::Signals;
use crate::api::Client;
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
    let job = tokio::select! {
        ended = wait(&client, &job) => done(ended?)?,
        () = signals.next() => return Err(interrupted(&client, &job).await),
    };
    let picture = client.picture(job.id).await?;
    let trace = match &args.output.trace {
        Some(path) => Some((path.as_path(), client.trace(job.id).await?)),
        None => None,
    };
    Results { job: &job, picture: (path, picture), trace, alone: Alone::Predicted }.deliver(args.output.json)?;
    Ok(ExitCode::Ok)
}

async fn wait(client: &Client, job: &JobRecord) -> Result<JobRecord, Failure> {
    let events = client.events(job.id).await?;
    follow(events, &mut Progress::new()).await
}

/// Somebody who stops waiting does not want the picture any more; `--no-wait` is for those who do.
async fn interrupted(client: &Client, job: &JobRecord) -> Failure {
    match client.cancel(job.id).await {
        Ok(_) => Failure::interrupted(format!("interrupted; {} was cancelled", job.id)),
        Err(error) => Failure::interrupted(format!("interrupted; {} could not be cancelled: {error}", job.id)),
    }
}
