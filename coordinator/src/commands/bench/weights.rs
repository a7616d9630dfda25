//! `coordinator bench weights`.

use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::bench::WeightsBench;
use crate::cli::{Failure, note};

#[derive(Args, Debug)]
pub(super) struct WeightsArgs {
    /// Size of the checkpoint in MiB, from 64 to 4096; up to six times as much is on the disk at a time
    #[arg(long, default_value = "256", value_parser = RangedU64ValueParser::<u32>::new().range(64..=4096))]
    mebibytes: u32,

    /// A folder on the disk that is meant; what is made there is removed [default: that of temporary files]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: WeightsArgs) -> Result<String, Failure> {
    let WeightsArgs { mebibytes, folder, json } = args;
    let bench = WeightsBench { mebibytes, folder: folder.unwrap_or_else(std::env::temp_dir) };
    let measured = bench.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}
