//! `coordinator bench pipeline`.

use std::num::NonZeroU32;
use std::path::PathBuf;

use asyncdiff_plan::{Cut, CutShape, Wishes};
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};

use crate::bench::{BenchModel, PipelineBench};
use crate::cli::{DtypeArg, Failure, note};

#[derive(Args, Debug)]
pub(super) struct PipelineArgs {
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

    /// Models, separated by commas: a UNet of 64/128/256/256 channels with synthetic weights at 32x32 latents, and the demo model
    #[arg(long, value_delimiter = ',', value_enum, default_value = "unet,demo")]
    cases: Vec<BenchModel>,

    /// What the denoiser is computed in, separated by commas; what comes to the same is measured once
    #[arg(long = "dtype", value_name = "TYPE", value_delimiter = ',', default_value = "f32,auto")]
    dtypes: Vec<DtypeArg>,

    /// A Python with the packages of tests/bench/requirements.txt, to time PyTorch in the same run
    #[arg(long, value_name = "PYTHON")]
    torch: Option<PathBuf>,

    /// Print JSON instead of a Markdown table
    #[arg(long)]
    json: bool,
}

impl ValueEnum for BenchModel {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

pub(super) async fn run(args: PipelineArgs) -> Result<String, Failure> {
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
        threads_per_worker: args.threads_per_worker,
        models: args.cases,
        dtypes: args.dtypes.into_iter().map(Into::into).collect(),
        torch: args.torch,
    };
    let measured = bench.run(&mut |line: String| note(&line)).await;
    let report = measured.map_err(|error| Failure::operator(format!("{error:#}")))?;
    if args.json { serde_json::to_string_pretty(&report).map_err(Failure::operator) } else { Ok(report.markdown()) }
}
