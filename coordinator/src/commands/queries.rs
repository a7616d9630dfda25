//! `coordinator jobs`, `job`, `cancel`, `workers`, `drain`: one question and its answer each.

use std::path::PathBuf;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_plan::JobId;
use asyncdiff_transport::WorkerName;
use clap::Args;
use serde::Serialize;

use super::submit::{parse_wait, wait_and_deliver};
use crate::api::parse_job_id;
use crate::cli::{ConnectArgs, Failure, check_place, print_line};
use crate::render::{job_text, jobs_table, workers_table};

/// Arguments of commands that list.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Arguments of `job`.
#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    job: JobIdArgs,

    /// Wait for the job's end and write its picture here
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// With --out: how long to wait for a coordinator that goes away meanwhile
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "60s")]
    reconnect_for: Duration,
}

/// Arguments of commands about one job.
#[derive(Args, Debug)]
pub(crate) struct JobIdArgs {
    /// The job's id, such as 3 or job-3
    #[arg(value_parser = |text: &str| parse_job_id(text).ok_or("a number such as 3 is needed; `coordinator jobs` lists them"))]
    id: JobId,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

/// Arguments of `coordinator drain`.
#[derive(Args, Debug)]
pub(crate) struct DrainArgs {
    /// The worker's name
    #[arg(value_parser = |text: &str| WorkerName::new(text))]
    worker: WorkerName,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn jobs(args: ListArgs) -> Result<ExitCode, Failure> {
    let jobs = args.connect.client().await?.jobs().await?;
    print(args.json, &jobs, || jobs_table(&jobs))
}

pub(crate) async fn job(JobArgs { job: args, out, reconnect_for }: JobArgs) -> Result<ExitCode, Failure> {
    if let Some(path) = out {
        check_place(&path)?;
        wait_and_deliver((&args.connect, args.id), reconnect_for, path, None, args.json).await?;
        return Ok(ExitCode::Ok);
    }
    let job = args.connect.client().await?.job(args.id).await?;
    print(args.json, &job, || job_text(&job))
}

pub(crate) async fn cancel(args: JobIdArgs) -> Result<ExitCode, Failure> {
    let job = args.connect.client().await?.cancel(args.id).await?;
    print(args.json, &job, || job_text(&job))
}

pub(crate) async fn drain(args: DrainArgs) -> Result<ExitCode, Failure> {
    let worker = args.connect.client().await?.drain(args.worker.as_str()).await?;
    print(args.json, &worker, || {
        let name = &worker.name;
        format!("worker {name} leaves as soon as no job needs it; `coordinator workers` shows it until then")
    })
}

pub(crate) async fn workers(args: ListArgs) -> Result<ExitCode, Failure> {
    let workers = args.connect.client().await?.workers().await?;
    print(args.json, &workers, || workers_table(&workers))
}

/// Prints an answer in the form that was asked for.
pub(super) fn print(json: bool, answer: &impl Serialize, text: impl FnOnce() -> String) -> Result<ExitCode, Failure> {
    let answer = if json {
        serde_json::to_string_pretty(answer).map_err(|error| Failure::new(ExitCode::Bug, error.to_string()))?
    } else {
        text()
    };
    print_line(&answer)?;
    Ok(ExitCode::Ok)
}
