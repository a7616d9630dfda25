//! `coordinator run` as a user starts it, in a process of its own: how long until its first step, and until the picture is there.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use asyncdiff_common::telemetry::FILTER_VARIABLE;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::report::StartUpReport;
use crate::bench::median::median;
use crate::bench::model::PROMPT;
use crate::job::{JobRecord, JobSummary};

/// Has the run's log tell of each step, and of little else.
const STEPS_LOGGED: &str = "warn,asyncdiff_coordinator::actors::denoiser::denoising=debug";

/// What a line about a step has.
const STEP_TAKEN: &str = "step taken";

/// Lines of the log that are kept for the message about a run that failed: it ends with what is wrong.
const LAST_LINES: usize = 20;

/// How one run went.
struct Run {
    first_step: Duration,
    picture: Duration,
    summary: JobSummary,
}

/// What `run --json` prints, as far as it is read.
#[derive(Deserialize)]
struct Printed {
    job: JobRecord,
}

/// Starts runs one after the other; `None` without any.
pub(super) async fn measure(
    runs: u32,
    on_progress: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<Option<StartUpReport>> {
    let folder = tempfile::tempdir().context("cannot make a folder for pictures")?;
    let mut done = Vec::new();
    for index in 1..=runs {
        let run = run_once(folder.path(), index).await?;
        let (first, picture) = (run.first_step.as_secs_f64(), run.picture.as_secs_f64());
        on_progress(format!("run {index}/{runs}: first step after {first:.2} s, picture after {picture:.2} s"));
        done.push(run);
    }
    Ok(sum_up(&done))
}

fn sum_up(runs: &[Run]) -> Option<StartUpReport> {
    let seconds = |of: fn(&Run) -> Duration| median(runs.iter().map(|run| of(run).as_secs_f64()).collect());
    let last = &runs.last()?.summary;
    Some(StartUpReport {
        runs: runs.len(),
        steps: last.steps,
        first_step_seconds: seconds(|run| run.first_step)?,
        picture_seconds: seconds(|run| run.picture)?,
        denoise_seconds: median(runs.iter().map(|run| run.summary.denoise_seconds).collect())?,
        coordinator_peak_memory_bytes: last.coordinator_peak_memory_bytes,
        worker_peak_memory_bytes: last.peak_memory_bytes.clone(),
    })
}

async fn run_once(folder: &Path, index: u32) -> anyhow::Result<Run> {
    let picture = folder.join(format!("{index}.png"));
    let program = std::env::current_exe().context("this program's file is unknown")?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(["run", PROMPT, "--json", "--out"])
        .arg(&picture)
        .env(FILTER_VARIABLE, STEPS_LOGGED)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start this program again")?;
    let (printed, (first_step, log)) =
        tokio::try_join!(printed(&mut child.stdout), logged(&mut child.stderr, started))?;
    let status = child.wait().await?;
    // The process has ended: everything that a user waits for is done.
    let ended = started.elapsed();
    ensure!(status.success() && picture.is_file(), "a run ended with {status} and no picture:\n{}", log.join("\n"));
    let first_step = first_step.context("a run did not log its steps")?;
    let printed: Printed = serde_json::from_str(&printed).context("a run printed something else than its JSON")?;
    let summary = printed.job.summary.context("a run ended without a summary")?;
    Ok(Run { first_step, picture: ended, summary })
}

async fn printed(stdout: &mut Option<impl AsyncReadExt + Unpin>) -> anyhow::Result<String> {
    let mut text = String::new();
    if let Some(stdout) = stdout {
        stdout.read_to_string(&mut text).await?;
    }
    Ok(text)
}

/// When the first step was logged, and the last lines about other things.
async fn logged(
    stderr: &mut Option<impl AsyncReadExt + Unpin>,
    started: Instant,
) -> anyhow::Result<(Option<Duration>, Vec<String>)> {
    let (mut first_step, mut others) = (None, Vec::new());
    let Some(stderr) = stderr else { return Ok((None, others)) };
    let mut lines = BufReader::new(stderr).lines();
    while let Some(line) = lines.next_line().await? {
        if line.contains(STEP_TAKEN) {
            first_step.get_or_insert_with(|| started.elapsed());
            continue;
        }
        if others.len() == LAST_LINES {
            others.remove(0);
        }
        others.push(line);
    }
    Ok((first_step, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_of_several_steps_counts_and_other_lines_are_kept() {
        let mut log = Some(&b"starting 2 workers\nDEBUG step taken step=0\nDEBUG step taken step=1\nerror: no\n"[..]);
        let started = Instant::now();
        let (first, others) = logged(&mut log, started).await.unwrap();
        assert!(first.unwrap() <= started.elapsed());
        assert_eq!(others, ["starting 2 workers", "error: no"]);
        let (none, _) = logged(&mut Some(&b"error: no\n"[..]), started).await.unwrap();
        assert_eq!(none, None);
    }

    #[test]
    fn no_run_makes_no_report_and_several_make_medians() {
        let run = |seconds: u64| Run {
            first_step: Duration::from_secs(seconds),
            picture: Duration::from_secs(2 * seconds),
            summary: JobSummary { denoise_seconds: 0.5, ..JobSummary::default() },
        };
        assert_eq!(sum_up(&[]), None);
        let report = sum_up(&[run(3), run(1), run(2)]).unwrap();
        assert_eq!((report.runs, report.first_step_seconds, report.picture_seconds), (3, 2.0, 4.0));
    }
}
