//! `verify`: golden data of other implementations through the same path as a user's job.
//!
//! A run of golden data becomes a job whose conditions and initial latents are tensors; it is made by the engine alone, by a cluster on
//! simulated links, or by real processes over QUIC. All three must give the same bits, and all must agree with the golden data.

mod golden;
mod parts;
mod report;
mod runs;
mod ways;

use std::path::Path;

use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::kernels::DeviceSet;

pub use golden::GoldenError;
pub use report::{Line, Verdict};
pub use ways::Way;

use crate::denoise::Denoised;
use golden::GoldenKind;
use runs::Family;
use ways::Runner;

/// How golden data is computed.
#[derive(Clone, Copy, Debug)]
pub struct Making {
    /// How runs are made; parts are always computed in this process.
    pub way: Way,
    /// What runs are computed in; parts are in f32.
    pub compute: ComputeType,
    /// What computes. Runs are made on another device than the CPU by processes only; parts on the first one.
    pub device: DeviceSet,
    /// How many workers make the runs, where workers do; without it, as many as the plan with most slots has.
    pub workers: Option<usize>,
}

/// Checks a folder of golden data, or a folder of such folders, and hands out a line for each run and part. If `only` names some, as the lines do,
/// the other runs are left out, and all parts.
pub async fn verify(
    path: &Path,
    making: Making,
    only: &[String],
    on_line: &mut (dyn FnMut(Line) + Send),
) -> Result<(), GoldenError> {
    for (folder, kind) in golden::find(path)? {
        match kind {
            GoldenKind::Parts if !only.is_empty() => {}
            // Text encoders and VAEs are computed in f32 always.
            GoldenKind::Parts => parts::verify(&folder, making.device.first(), on_line)?,
            GoldenKind::Runs => {
                let family = Family::open(&folder, making.compute)?.only(only);
                if !family.is_empty() {
                    verify_runs(&family, making, on_line).await?;
                }
            }
        }
    }
    Ok(())
}

async fn verify_runs(
    family: &Family,
    Making { way, device, workers, .. }: Making,
    on_line: &mut (dyn FnMut(Line) + Send),
) -> Result<(), GoldenError> {
    let mut all = |verdict: Verdict| {
        for name in family.run_names() {
            on_line(Line::new(name, verdict.clone()));
        }
    };
    if let Some(reason) = family.unsupported() {
        all(Verdict::Unsupported { reason });
        return Ok(());
    }
    let cases = family.cases();
    let slots = cases.iter().filter_map(|(_, case)| case.as_ref().ok()).map(|case| case.slots).max().unwrap_or(1);
    let runner = match Runner::start((way, device), family.model()?, workers.unwrap_or(slots)).await {
        Ok(runner) => runner,
        Err(error) => {
            all(Verdict::Broken { reason: one_line(&error) });
            return Ok(());
        }
    };
    for (name, case) in cases {
        on_line(match case {
            Err(reason) => Line::new(name, Verdict::Broken { reason }),
            Ok(case) => match runner.run(&case).await {
                Ok((made, nccl_bytes_per_step)) => {
                    let verdict = family.verdict(&case, &made.latents, &made.last_prediction);
                    Line { nccl_bytes_per_step, digest: Some(digest(&made)), ..Line::new(name, verdict) }
                }
                Err(error) => Line::new(name, Verdict::Broken { reason: one_line(&error) }),
            },
        });
    }
    runner.stop().await;
    Ok(())
}

fn digest(made: &Denoised) -> String {
    let mut hasher = blake3::Hasher::new();
    for value in made.latents.iter().chain(&made.last_prediction) {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn one_line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', "; ")
}
