//! `coordinator bench coordinator`.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use clap::Args;

use super::parse_seconds;
use crate::bench::CoordinatorBench;
use crate::cli::{Failure, note};

/// The most workers: each is a process with a link to every other one.
const WORKERS_LIMIT: u16 = 256;

#[derive(Args, Debug)]
pub(super) struct CoordinatorArgs {
    /// Numbers of workers, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "2,4,8,16,32,64", value_parser = parse_workers)]
    workers: Vec<NonZeroU16>,

    /// Denoising steps of each job, at most as many as the noise scheduler has timesteps: 1000
    #[arg(long, default_value = "500")]
    steps: NonZeroU32,

    /// Jobs with each number of workers; medians are reported
    #[arg(long, default_value = "3")]
    repeats: NonZeroU32,

    /// Seconds that a worker takes for its component, in the mean over the components
    #[arg(long, value_name = "SECONDS", default_value = "0.02", value_parser = parse_pace)]
    pace: Duration,

    /// How often `run` is started, to time its start-up; 0 for not at all
    #[arg(long, default_value_t = 5)]
    runs: u32,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: CoordinatorArgs) -> Result<String, Failure> {
    let CoordinatorArgs { workers, steps, repeats, pace, runs, json } = args;
    let bench = CoordinatorBench { workers, steps, repeats, pace, runs };
    let measured = bench.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}

fn parse_workers(text: &str) -> Result<NonZeroU16, String> {
    let count = text.parse().ok().filter(|count: &NonZeroU16| count.get() <= WORKERS_LIMIT);
    count.ok_or_else(|| format!("a whole number from 1 to {WORKERS_LIMIT} is needed"))
}

fn parse_pace(text: &str) -> Result<Duration, String> {
    let pace = parse_seconds(text)?;
    if pace.is_zero() { Err("a time above 0 is needed".to_owned()) } else { Ok(pace) }
}
