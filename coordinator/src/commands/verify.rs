//! `coordinator verify`: golden data through the same path as a user's job.

use std::path::PathBuf;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::kernels::DeviceSet;
use clap::{Args, ValueEnum};

use crate::cli::{Failure, note, print_line};
use crate::verify::{Line, Making, Way, verify};

/// Arguments of `verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// A folder of golden data (with runs.json or parts.json), or a folder that holds such folders
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// How the runs are made; parts are always computed in this process
    #[arg(long, value_enum, default_value_t = Way::InProcess)]
    way: Way,

    /// What denoising runs are computed in; the tolerances of bf16 and f16 are wider. f16 is for GPUs
    #[arg(long, value_enum, default_value_t = Compute::F32)]
    dtype: Compute,

    /// What computes: cpu, cuda for all GPUs, which workers share, or cuda:N for one; runs on GPUs are made by processes (--way processes)
    #[arg(long, value_name = "DEVICE", default_value_t)]
    device: DeviceSet,

    /// Make this run and no others but those that are named so too, such as sd15/seq
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Workers that make the runs, with --way processes or simulated; any number gives the same results [default: one for each part of the run that has most]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,

    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// What denoising runs are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compute {
    /// bfloat16
    Bf16,
    /// Half precision
    F16,
    /// Single precision
    F32,
}

/// Prints a line for each run and part; the exit code says whether all agree.
pub(crate) async fn run(args: VerifyArgs) -> Result<ExitCode, Failure> {
    let (mut passed, mut failed, mut by_nccl) = (0, 0, 0);
    let json = args.json;
    let mut unwritten = None;
    let mut on_line = |line: Line| {
        if line.verdict.is_passed() {
            passed += 1;
        } else {
            failed += 1;
        }
        by_nccl += usize::from(line.nccl_bytes_per_step.is_some());
        let text = match serde_json::to_string(&line) {
            Ok(text) if json => text,
            _ => line.to_string(),
        };
        if let Err(failure) = print_line(&text) {
            unwritten.get_or_insert(failure);
        }
    };
    let compute = match args.dtype {
        Compute::Bf16 => ComputeType::Bf16,
        Compute::F16 => ComputeType::F16,
        Compute::F32 => ComputeType::F32,
    };
    let making = Making { way: args.way, compute, device: args.device, workers: args.workers.map(usize::from) };
    verify(&args.folder, making, &args.only, &mut on_line).await.map_err(Failure::operator)?;
    if let Some(failure) = unwritten {
        return Err(failure);
    }
    if by_nccl > 0 {
        note(&format!("hidden states of {by_nccl} went from GPU to GPU over NCCL"));
    }
    if passed + failed < args.only.len() {
        return Err(Failure::operator(format!(
            "{} runs were named, and {} of them found",
            args.only.len(),
            passed + failed
        )));
    }
    if !json {
        print_line(&format!("{passed} agree, {failed} do not"))?;
    }
    Ok(if failed == 0 { ExitCode::Ok } else { ExitCode::CheckFailed })
}
