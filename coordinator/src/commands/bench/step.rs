//! `coordinator bench step`: a step of a denoiser at its full size on one device.

use std::num::NonZeroU32;
use std::time::Duration;

use asyncdiff_model::kernels::{DeviceChoice, Format};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::{format_among, parse_seconds};
use crate::bench::{StepBench, StepModel};
use crate::cli::{Failure, note};

#[derive(Args, Debug)]
pub(super) struct StepArgs {
    /// What computes: cpu, cuda for the first GPU, or cuda:N for another
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceChoice,

    /// Denoisers, separated by commas; weights are made up
    #[arg(long, value_delimiter = ',', value_enum, default_value = "sd21,sdxl")]
    models: Vec<StepModel>,

    /// Formats of weights and products, separated by commas: f32, bf16, f16 (on GPUs) [default: the device's fastest]
    #[arg(long = "dtype", value_name = "DTYPE", value_delimiter = ',', value_parser = parse_format)]
    dtypes: Vec<Format>,

    /// Steps that are timed at most, after some that are not
    #[arg(long, default_value = "50")]
    runs: NonZeroU32,

    /// How long steps are timed, at least three
    #[arg(long, default_value = "20", value_parser = parse_seconds)]
    seconds: Duration,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

impl ValueEnum for StepModel {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.title()))
    }
}

fn parse_format(text: &str) -> Result<Format, String> {
    format_among(&[Format::F32, Format::Bf16, Format::F16], text)
}

/// Measures; returns what is printed.
pub(super) async fn run(args: StepArgs) -> Result<String, Failure> {
    let bench = StepBench {
        device: args.device,
        models: args.models,
        formats: args.dtypes,
        runs: args.runs.get(),
        time: args.seconds,
    };
    let measured = tokio::task::spawn_blocking(move || bench.run(&note)).await.map_err(Failure::operator)?;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}
