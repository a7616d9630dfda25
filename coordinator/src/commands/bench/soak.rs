//! `coordinator bench soak`.

use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use clap::Args;

use crate::bench::SoakBench;
use crate::cli::{Failure, note};

#[derive(Args, Debug)]
pub(super) struct SoakArgs {
    /// How long, in minutes
    #[arg(long, default_value = "30")]
    minutes: f64,

    /// Decides what happens to whom after which time
    #[arg(long, default_value = "1")]
    seed: u64,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

/// What is to be printed, and whether all is as it must be.
pub(super) async fn run(args: SoakArgs) -> Result<(String, ExitCode), Failure> {
    let SoakArgs { minutes, seed, json } = args;
    let time = Duration::try_from_secs_f64(minutes * 60.0)
        .map_err(|_| Failure::operator(format!("{minutes} is no number of minutes\nhint: give --minutes 30")))?;
    let measured = SoakBench { time, seed }.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    let complaints = report.complaints();
    for complaint in &complaints {
        note(complaint);
    }
    let exit = if complaints.is_empty() { ExitCode::Ok } else { ExitCode::CheckFailed };
    let text = if json { serde_json::to_string_pretty(&report).map_err(Failure::operator)? } else { report.markdown() };
    Ok((text, exit))
}
