//! `coordinator bench gpus`: what more GPUs of this machine bring.

use std::num::NonZeroU32;
use std::path::PathBuf;

use asyncdiff_model::kernels::DeviceSet;
use clap::Args;

use super::device_counts::{DeviceCounts, parse_devices};
use crate::bench::{GpusBench, StepModel};
use crate::cli::{DtypeArg, Failure, note};

#[derive(Args, Debug)]
pub(super) struct GpusArgs {
    /// What the workers compute on: cpu, cuda for all GPUs, which they share if they are more, or cuda:N for one
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceSet,

    /// Denoisers, separated by commas; weights are made up
    #[arg(long, value_delimiter = ',', value_enum, default_value = "sd21,sdxl")]
    models: Vec<StepModel>,

    /// What they are computed in
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,

    /// Numbers of workers, such as 1-4 or 2,4; one is measured in any case
    #[arg(long, value_name = "LIST", value_parser = parse_devices, default_value = "1-2")]
    workers: DeviceCounts,

    /// Steps served by one round, separated by commas
    #[arg(long, value_name = "STRIDES", value_delimiter = ',', default_value = "1,2")]
    strides: Vec<NonZeroU32>,

    /// Denoising steps of each job
    #[arg(long, default_value = "20")]
    steps: NonZeroU32,

    /// How often each row is measured; the one with the median time is reported
    #[arg(long, default_value = "3")]
    repeats: NonZeroU32,

    /// Write a trace for Chrome or Perfetto of each row with several workers into this folder
    #[arg(long, value_name = "FOLDER")]
    traces: Option<PathBuf>,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

/// Measures; returns what is printed.
pub(super) async fn run(args: GpusArgs) -> Result<String, Failure> {
    if let Some(folder) = &args.traces {
        let refuse =
            |error| Failure::operator(format!("cannot make {}: {error}\nhint: check --traces", folder.display()));
        std::fs::create_dir_all(folder).map_err(refuse)?;
    }
    let bench = GpusBench {
        device: args.device,
        models: args.models,
        dtype: args.dtype.into(),
        workers: args.workers.0,
        strides: args.strides,
        steps: args.steps,
        repeats: args.repeats,
        traces: args.traces,
    };
    let measured = bench.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}
