//! `coordinator join-line`: a new line for workers.

use std::time::Duration;

use asyncdiff_common::config::parse_duration;
use asyncdiff_common::exit::ExitCode;
use clap::Args;

use super::queries::print;
use crate::api::JoinLineRequest;
use crate::cli::{ConnectArgs, Failure};

/// Arguments of `join-line`.
#[derive(Args, Debug)]
pub(crate) struct JoinLineArgs {
    /// How long it lets workers in, such as 30m or 24h [default: the coordinator's setting]
    #[arg(long, value_name = "DURATION", value_parser = parse)]
    valid_for: Option<Duration>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) async fn run(args: JoinLineArgs) -> Result<ExitCode, Failure> {
    let request = JoinLineRequest { valid_for_seconds: args.valid_for.map(|duration| duration.as_secs()) };
    let line = args.connect.client().await?.join_line(&request).await?;
    print(args.json, &line, || format!("worker join {}", line.line))
}

fn parse(text: &str) -> Result<Duration, String> {
    let whole_seconds = parse_duration(text).filter(|duration| duration.as_secs() > 0);
    whole_seconds.ok_or_else(|| "a duration of a second or more is needed, such as 30m or 24h".to_owned())
}
