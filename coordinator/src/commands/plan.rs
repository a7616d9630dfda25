//! `coordinator plan`: what would be done, how long it would take, what would travel. Runs nothing.

use asyncdiff_common::exit::ExitCode;
use clap::Args;

use super::queries::print;
use crate::cli::{ConnectArgs, Failure, JobArgs};
use crate::render::plan_text;

/// Arguments of `plan`.
#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    job: JobArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: PlanArgs) -> Result<ExitCode, Failure> {
    let plan = args.connect.client().await?.plan(&args.job.settings()).await?;
    print(args.json, &plan, || plan_text(&plan))
}
