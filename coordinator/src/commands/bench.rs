//! `coordinator bench`: what parallelism brings on this machine.

use std::num::NonZeroU32;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_plan::{Cut, CutShape, Wishes};
use clap::{Args, Subcommand};

use crate::bench::PipelineBench;
use crate::cli::{DtypeArg, Failure, note, print_line};

/// Arguments of `bench`.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: Benchmark,
}

#[derive(Debug, Subcommand)]
enum Benchmark {
    /// Two workers against one, on a UNet of 64/128/256/256 channels with synthetic weights at 32x32 latents
    Pipeline(PipelineArgs),
}

#[derive(Args, Debug)]
struct PipelineArgs {
    /// Denoising steps of each job
    #[arg(long, default_value = "50")]
    steps: NonZeroU32,

    /// How often everything is measured; medians are reported
    #[arg(long, default_value = "3")]
    repeats: NonZeroU32,

    /// Steps served by one round
    #[arg(long, default_value = "1")]
    stride: NonZeroU32,

    /// First steps that are computed exactly
    #[arg(long, default_value_t = 1)]
    warm_up: u32,

    /// How the denoiser is split: contiguous or nested [default: the faster]
    #[arg(long, value_parser = ["contiguous", "nested"])]
    partition: Option<String>,

    /// Threads of each worker
    #[arg(long, default_value = "1")]
    threads_per_worker: NonZeroU32,

    /// What the denoiser is computed in
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    dtype: DtypeArg,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

/// Measures and prints.
pub(crate) async fn run(args: BenchArgs) -> Result<ExitCode, Failure> {
    let Benchmark::Pipeline(args) = args.what;
    let shape = |name: &str| if name == "nested" { CutShape::Nested } else { CutShape::Contiguous };
    let bench = PipelineBench {
        steps: args.steps,
        repeats: args.repeats.get() as usize,
        wishes: Wishes {
            components: Some(2),
            cut: args.partition.as_deref().map(|name| Cut::Shape(shape(name))),
            stride: Some(args.stride),
            warm_up: Some(args.warm_up),
            split_guidance: Some(false),
            ..Wishes::default()
        },
        threads_per_worker: args.threads_per_worker.get(),
        dtype: args.dtype.into(),
    };
    let mut on_progress = |line: String| note(&line);
    let report = bench.run(&mut on_progress).await.map_err(Failure::operator)?;
    let text =
        if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator)? } else { report.markdown() };
    print_line(text.trim_end())?;
    Ok(ExitCode::Ok)
}
