//! `coordinator bench`: what parallelism brings on this machine, what one device does, also at full sizes, what the coordinator takes, what carries
//! tensors how fast, what a fault and what saving a job costs, how parameters come to workers, what more devices bring than there are, and what
//! half an hour of faults does.

mod coordinator;
mod device_counts;
mod gpus;
mod pipeline;
mod recovery;
mod scaling;
mod soak;
mod step;
mod weights;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_model::kernels::Format;
use clap::builder::PossibleValue;
use clap::{Args, Subcommand, ValueEnum};

use crate::bench::{Case, DeviceBench, measure_links, measure_saving};
use crate::cli::{Failure, default_state_dir, note, print_line};

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// What the coordinator itself takes of a step, by the number of workers; start-up and memory of `run`
    Coordinator(coordinator::CoordinatorArgs),
    /// One device, kernel by kernel, against its measured peak and, where there is a Python with it, against PyTorch
    Device(DeviceArgs),
    /// What more GPUs of this machine bring to Stable Diffusion 2.1 and XL at their full sizes
    Gpus(gpus::GpusArgs),
    /// What carries tensors: shared memory and QUIC, against a copy of memory and against TCP with TLS
    Links(LinksArgs),
    /// Two workers against one, against one with twice the threads and, where there is a Python with it, against PyTorch
    Pipeline(pipeline::PipelineArgs),
    /// What a fault costs: a worker that is killed, stopped, drained or joins in the middle of a job
    Recovery(recovery::RecoveryArgs),
    /// What it costs to save a running job's progress on this machine's disk
    Saving(SavingArgs),
    /// Up to eight simulated devices on Stable Diffusion 2.1 and XL: real tensors over the real links, no computing
    Scaling(scaling::ScalingArgs),
    /// Jobs for half an hour while workers are killed, stopped, drained and joined at random: nothing is lost, memory stays as it is
    Soak(soak::SoakArgs),
    /// A step of Stable Diffusion 2.1 and XL at their full sizes on one device, such as a GPU, by kind of layer
    Step(step::StepArgs),
    /// How parameters come to one, two and three workers: from the coordinator, from each other, from the disk; against a copy of the file
    Weights(weights::WeightsArgs),
}

#[derive(Args, Debug)]
struct DeviceArgs {
    /// Threads of the device
    #[arg(long, default_value = "1")]
    threads: NonZeroUsize,

    /// Models, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,

    /// Formats of weights and products, separated by commas: f32, bf16 [default: f32 and the fastest on this CPU]
    #[arg(long = "dtype", value_name = "DTYPE", value_delimiter = ',', value_parser = parse_format)]
    dtypes: Vec<Format>,

    /// How long each case is timed, at least three runs; with --torch before, between and after PyTorch's runs
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    seconds: Duration,

    /// A Python with the packages of tests/bench/requirements.txt, to time PyTorch in the same run
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,

    /// How often PyTorch is timed, alternating with ours
    #[arg(long, default_value = "1", requires = "torch")]
    repeats: NonZeroUsize,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct LinksArgs {
    /// How long each carrier is measured at each size
    #[arg(long, default_value = "3", value_parser = parse_seconds)]
    seconds: Duration,

    /// Print JSON instead of Markdown tables
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct SavingArgs {
    /// A folder on the disk that is meant; a database is made there and removed [default: where coordinators keep their state]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,

    /// How often each size is saved
    #[arg(long, default_value = "50")]
    repeats: NonZeroUsize,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

impl ValueEnum for Case {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

/// Measures and prints.
pub(crate) async fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    let mut exit = ExitCode::Ok;
    let text = match args.what {
        Benchmark::Coordinator(args) => coordinator::run(args).await?,
        Benchmark::Device(args) => device(args).await?,
        Benchmark::Gpus(args) => gpus::run(args).await?,
        Benchmark::Links(args) => links(args).await?,
        Benchmark::Pipeline(args) => pipeline::run(args).await?,
        Benchmark::Recovery(args) => recovery::run(args).await?,
        Benchmark::Saving(args) => saving(args).await?,
        Benchmark::Scaling(args) => scaling::run(args).await?,
        Benchmark::Soak(args) => {
            let (text, found) = soak::run(args).await?;
            exit = found;
            text
        }
        Benchmark::Step(args) => step::run(args).await?,
        Benchmark::Weights(args) => weights::run(args).await?,
    };
    print_line(text.trim_end())?;
    Ok(exit)
}

async fn device(args: DeviceArgs) -> Result<String, Failure> {
    let bench = DeviceBench {
        threads: args.threads,
        cases: if args.cases.is_empty() { Case::ALL.to_vec() } else { args.cases },
        formats: args.dtypes,
        time: args.seconds,
        repeats: args.repeats.get(),
        torch: args.torch,
    };
    let measured = tokio::task::spawn_blocking(move || bench.run(&note)).await.map_err(Failure::operator)?;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}

async fn links(args: LinksArgs) -> Result<String, Failure> {
    let measured = tokio::task::spawn_blocking(move || measure_links(args.seconds, &note)).await;
    let report = measured.map_err(Failure::operator)?.map_err(Failure::operator)?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}

async fn saving(args: SavingArgs) -> Result<String, Failure> {
    let folder = match args.folder {
        Some(folder) => folder,
        None => default_state_dir()?,
    };
    let measure = move || {
        std::fs::create_dir_all(&folder)?;
        let place = tempfile::tempdir_in(&folder)?;
        measure_saving(place.path(), args.repeats.get())
    };
    let measured = tokio::task::spawn_blocking(measure).await.map_err(Failure::operator)?;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}

/// What CPUs compute in.
fn parse_format(text: &str) -> Result<Format, String> {
    format_among(&[Format::F32, Format::Bf16], text)
}

fn format_among(known: &[Format], text: &str) -> Result<Format, String> {
    let found = known.iter().copied().find(|format| format.name() == text);
    let names = || known.iter().map(|format| format.name()).collect::<Vec<_>>().join(" and ");
    found.ok_or_else(|| format!("known are {}", names()))
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is needed".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
