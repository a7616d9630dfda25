//! PyTorch on the same case: runs `tests/bench/torch_device.py`, which is part of the program, and reads what it prints.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use asyncdiff_model::kernels::Format;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::case::{Case, demo_unet_config};
use super::report::TorchVersion;
use crate::bench::median::median;

/// The script.
const SCRIPT: &str = include_str!("../../../../tests/bench/torch_device.py");

/// What it is called in the folder that it is run in.
const SCRIPT_NAME: &str = "torch_device.py";

/// A Python with PyTorch, and a folder with the script and the demo model's configuration.
pub(in crate::bench) struct Torch {
    python: PathBuf,
    threads: NonZeroUsize,
    time: Duration,
    folder: TempDir,
}

/// What PyTorch took for a case.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct TorchResult {
    /// Median of the runs, in the faster memory format.
    #[serde(rename = "ms")]
    pub milliseconds: f64,
    /// How many runs that is of.
    pub runs: usize,
    /// The faster memory format.
    pub memory_format: String,
}

/// What the script prints, as far as it is read.
#[derive(Deserialize)]
struct Output {
    torch: String,
    capability: String,
    results: Vec<TorchResult>,
}

impl Torch {
    pub(in crate::bench) fn new(python: &Path, threads: NonZeroUsize, time: Duration) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for PyTorch's script")?;
        std::fs::write(folder.path().join(SCRIPT_NAME), SCRIPT)?;
        Ok(Self { python: python.to_owned(), threads, time, folder })
    }

    /// Times a case in a process of its own, which inherits the CPUs that this one may use.
    pub(in crate::bench) fn time(&self, case: Case, format: Format) -> anyhow::Result<(TorchResult, TorchVersion)> {
        let folder = self.folder.path();
        let mut command = Command::new(&self.python);
        command.arg(folder.join(SCRIPT_NAME)).args(["--cases", case.name(), "--dtypes", format.name()]);
        command.args(["--threads", &self.threads.to_string(), "--seconds", &self.time.as_secs_f64().to_string()]);
        if case == Case::UnetDemo {
            std::fs::create_dir_all(folder.join("unet"))?;
            std::fs::write(folder.join("unet/config.json"), demo_unet_config()?)?;
            command.arg("--demo").arg(folder);
        }
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", self.python.display()))?;
        ensure!(
            output.status.success(),
            "{} on {}: {}\nhint: install tests/bench/requirements.txt for it, or leave --torch out",
            self.python.display(),
            case.name(),
            output.status
        );
        parse(&output.stdout)
    }
}

impl TorchResult {
    /// Of several processes: the median of their medians.
    pub(super) fn median(results: Vec<Self>) -> Option<Self> {
        let milliseconds = median(results.iter().map(|result| result.milliseconds).collect())?;
        let runs = results.iter().map(|result| result.runs).sum();
        let fastest = results.into_iter().min_by(|a, b| a.milliseconds.total_cmp(&b.milliseconds))?;
        Some(Self { milliseconds, runs, ..fastest })
    }
}

fn parse(stdout: &[u8]) -> anyhow::Result<(TorchResult, TorchVersion)> {
    let Output { torch, capability, results } =
        serde_json::from_slice(stdout).context("the script for PyTorch printed something else than its JSON")?;
    let result = results.into_iter().next().context("the script for PyTorch printed no result")?;
    ensure!(result.milliseconds > 0.0, "PyTorch took {} ms, which nothing does", result.milliseconds);
    Ok((result, TorchVersion { torch, capability }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = r#"{"torch": "2.11.0", "cpu": "EPYC", "threads": 1, "capability": "AVX512", "results": [
        {"case": "clip-sd15", "dtype": "f32", "ms": 12.5, "runs": 15, "min_ms": 12.0, "max_ms": 14.0,
         "memory_format": "contiguous", "medians": {"contiguous": [12.5]}}]}"#;

    #[test]
    fn what_the_script_prints_is_read() {
        let (result, version) = parse(PRINTED.as_bytes()).unwrap();
        assert_eq!((result.milliseconds, result.runs, result.memory_format.as_str()), (12.5, 15, "contiguous"));
        assert_eq!((version.torch.as_str(), version.capability.as_str()), ("2.11.0", "AVX512"));
    }

    #[test]
    fn anything_else_is_an_error_and_no_figure() {
        let empty = r#"{"torch": "2", "capability": "AVX2", "results": []}"#;
        for printed in ["", "Traceback", "{}", empty, &PRINTED.replace("12.5,", "0.0,")] {
            assert!(parse(printed.as_bytes()).is_err(), "{printed}");
        }
    }

    #[test]
    fn several_processes_count_by_their_median() {
        let result = |milliseconds| TorchResult { milliseconds, runs: 5, memory_format: "contiguous".to_owned() };
        let median = TorchResult::median(vec![result(3.0), result(1.0), result(2.0)]).unwrap();
        assert_eq!((median.milliseconds, median.runs), (2.0, 15));
        assert_eq!(TorchResult::median(Vec::new()), None);
    }
}
