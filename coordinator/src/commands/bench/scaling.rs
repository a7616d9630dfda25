//! `coordinator bench scaling`: what more devices bring than this machine has.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use super::device_counts::{DeviceCounts, parse_devices};
use crate::bench::{GuidanceWay, Network, ScalingBench, SimulatedModel};
use crate::cli::{Failure, note};

/// Devices over limited links unless others are asked for: every number within a host takes long enough.
const LINKED_DEVICES: [u16; 3] = [2, 4, 8];

#[derive(Args, Debug)]
pub(super) struct ScalingArgs {
    /// Models, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    models: Vec<SimulatedModel>,

    /// Networks between the devices, separated by commas: `inside` one host, or rate and delay such as 10gbit-0.2ms
    /// [default: inside, and 25, 10 and 1 Gbit/s with 0.2 and 2 ms]
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    networks: Vec<Network>,

    /// Numbers of devices, such as 1-8 or 2,4,8 [default: 1-8 within a host, 2,4,8 over limited links]
    #[arg(long, value_name = "LIST", value_parser = parse_devices)]
    workers: Option<DeviceCounts>,

    /// Steps served by one round, separated by commas
    #[arg(long, value_name = "STRIDES", value_delimiter = ',', default_value = "1,2")]
    strides: Vec<NonZeroU32>,

    /// How the halves of guidance are computed, separated by commas [default: both ways, batched over limited links]
    #[arg(long, value_delimiter = ',', value_enum)]
    guidance: Vec<GuidanceWay>,

    /// Denoising steps of each job
    #[arg(long, default_value = "20")]
    steps: NonZeroU32,

    /// By what factor devices and links are slowed down [default: as much as this machine needs]
    #[arg(long, value_name = "FACTOR", value_parser = parse_factor)]
    dilation: Option<f64>,

    /// How often each row is measured; the one with the median time is reported
    #[arg(long, default_value = "1")]
    repeats: NonZeroU32,

    /// Write a plot of the speed-ups within a host, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

impl ValueEnum for SimulatedModel {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.title()))
    }
}

impl ValueEnum for GuidanceWay {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Measures; returns what is printed.
pub(super) async fn run(args: ScalingArgs) -> Result<String, Failure> {
    let bench = ScalingBench {
        models: or_all(args.models, &SimulatedModel::ALL),
        networks: or_all(args.networks, &Network::ALL),
        devices: args.workers.clone().map_or_else(|| (1..=8).collect(), |counts| counts.0),
        linked_devices: args.workers.map_or_else(|| LINKED_DEVICES.to_vec(), |counts| counts.0),
        strides: args.strides,
        guidances: or_all(args.guidance.clone(), &GuidanceWay::ALL),
        linked_guidances: or_all(args.guidance, &[GuidanceWay::Batched]),
        steps: args.steps,
        dilation: args.dilation,
        repeats: args.repeats,
    };
    let mut on_progress = |line: String| note(&line);
    let measured = bench.run(&mut on_progress).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if let Some(path) = &args.plot {
        write(path, &report.svg())?;
    }
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}

fn or_all<T: Clone>(chosen: Vec<T>, all: &[T]) -> Vec<T> {
    if chosen.is_empty() { all.to_vec() } else { chosen }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let hint = "hint: check the folder of --plot";
    std::fs::write(path, text)
        .map_err(|error| Failure::operator(format!("cannot write {}: {error}\n{hint}", path.display())))
}

fn parse_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|factor: &f64| (0.1..=1000.0).contains(factor));
    factor.ok_or_else(|| "a number from 0.1 to 1000 is needed".to_owned())
}
