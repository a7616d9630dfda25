//! `coordinator bench recovery`.

use std::num::NonZeroU32;

use asyncdiff_model::kernels::DeviceSet;
use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::bench::RecoveryBench;
use crate::cli::{Failure, note};

#[derive(Args, Debug)]
pub(super) struct RecoveryArgs {
    /// Jobs with each kind of fault
    #[arg(long, default_value = "5")]
    repeats: NonZeroU32,

    /// Denoising steps of each job, from 12 to 250; of those that a worker joins four times as many
    #[arg(long, default_value = "100", value_parser = RangedU64ValueParser::<u32>::new().range(12..=250))]
    steps: u32,

    /// What workers compute on: `cpu`, `cuda` for all GPUs, which are shared where there are fewer than three, or `cuda:N` for one
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceSet,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RecoveryArgs) -> Result<String, Failure> {
    let RecoveryArgs { repeats, steps, device, json } = args;
    let bench = RecoveryBench { repeats, steps: NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN), device };
    let measured = bench.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}
