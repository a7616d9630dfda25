//! How a job went: one table, and one line about the plan.

use asyncdiff_common::config::{format_bytes, format_seconds};
use comfy_table::{Table, presets};

use crate::job::JobSummary;

/// What is known of the time that one worker alone takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Alone {
    /// The same job was run by one worker: seconds of its denoising loop.
    Measured(f64),
    /// Only the prediction from measured layer times.
    Predicted,
}

/// The table that `run` and `submit` end with, and why the plan was chosen.
#[must_use]
pub fn run_report(summary: &JobSummary, alone: &Alone) -> String {
    let steps = f64::from(summary.steps.max(1));
    let (alone_seconds, how) = match alone {
        Alone::Measured(seconds) => (*seconds, "measured"),
        Alone::Predicted => (summary.alone_seconds, "predicted from measured layer times"),
    };
    let step = |seconds: f64| format_seconds(seconds / steps);
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["", "result"]);
    table.add_row(["time per step".to_owned(), step(summary.denoise_seconds)]);
    let denoising = format!("{} ({} steps)", format_seconds(summary.denoise_seconds), summary.steps);
    table.add_row(["denoising".to_owned(), denoising]);
    table.add_row(["total, from start to picture".to_owned(), format_seconds(summary.total_seconds)]);
    let one = format!("{} ({} per step), {how}", format_seconds(alone_seconds), step(alone_seconds));
    table.add_row(["one worker alone".to_owned(), one]);
    let speed_up = alone_seconds / summary.denoise_seconds.max(f64::MIN_POSITIVE);
    table.add_row(["speed-up".to_owned(), format!("{speed_up:.2}x")]);
    let by_nccl = match summary.nccl_bytes_per_step {
        0.0 => String::new(),
        bytes => format!(", of which {} from GPU to GPU", format_bytes(bytes)),
    };
    let bytes = format!("{} ({}){by_nccl}", format_bytes(summary.bytes_per_step), summary.encoding);
    table.add_row(["bytes per step between workers".to_owned(), bytes]);
    for (worker, busy) in summary.workers.iter().zip(&summary.busy) {
        table.add_row([format!("computing at {worker}"), format!("{:.0} % of the denoising time", 100.0 * busy)]);
    }
    let coordinator = format_bytes(summary.coordinator_peak_memory_bytes as f64);
    table.add_row(["peak memory of the coordinator".to_owned(), coordinator]);
    for (rank, worker) in summary.workers.iter().enumerate() {
        table.add_row([format!("peak memory of {worker}"), memory(summary, rank)]);
    }
    format!("{table}\nplan: {}\n{}", summary.plan, prediction(summary))
}

/// Peak memory of a rank's process, and what the parameters take of it.
fn memory(summary: &JobSummary, rank: usize) -> String {
    let figure = |figures: &[u64]| figures.get(rank).map(|&bytes| format_bytes(bytes as f64));
    let gpu = summary.gpu_bytes.get(rank).copied().filter(|&bytes| bytes > 0).map(|bytes| format_bytes(bytes as f64));
    match (figure(&summary.peak_memory_bytes), figure(&summary.resident_bytes)) {
        (Some(peak), Some(weights)) if let Some(gpu) = &gpu => {
            format!("{gpu} of its GPU, of which {weights} of parameters; {peak} of the host")
        }
        (Some(peak), Some(weights)) => format!("{peak}, of which {weights} of parameters"),
        (Some(peak), None) => peak,
        (None, _) => "unknown".to_owned(),
    }
}

fn prediction(summary: &JobSummary) -> String {
    let difference = 100.0 * (summary.denoise_seconds / summary.predicted_seconds.max(f64::MIN_POSITIVE) - 1.0);
    format!(
        "predicted {} for denoising, took {} ({difference:+.0} %); predicted {} per step, sent {}",
        format_seconds(summary.predicted_seconds),
        format_seconds(summary.denoise_seconds),
        format_bytes(summary.predicted_bytes_per_step),
        format_bytes(summary.bytes_per_step),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> JobSummary {
        JobSummary {
            plan: "2 components (contiguous)".into(),
            workers: vec!["local-0".into(), "local-1".into()],
            components: 2,
            stride: 1,
            warm_up: 1,
            steps: 50,
            denoise_seconds: 2.0,
            total_seconds: 3.0,
            predicted_seconds: 1.6,
            alone_seconds: 3.0,
            bytes_per_step: 65536.0,
            nccl_bytes_per_step: 32768.0,
            predicted_bytes_per_step: 65000.0,
            encoding: "delta8".into(),
            busy: vec![0.95, 0.875],
            resident_bytes: vec![1 << 20, 1 << 21],
            peak_memory_bytes: vec![1 << 26],
            gpu_bytes: Vec::new(),
            coordinator_peak_memory_bytes: 1 << 27,
            turnaround_seconds: 1e-4,
            turnaround_p99_seconds: 3e-4,
            turnaround_max_seconds: 5e-4,
        }
    }

    #[test]
    fn the_report_has_every_figure_that_was_promised() {
        let report = run_report(&summary(), &Alone::Predicted);
        for part in [
            "40.0 ms",
            "2.00 s",
            "3.00 s",
            "60.0 ms",
            "1.50x",
            "64.0 KiB (delta8), of which 32.0 KiB from GPU to GPU",
            "88 % of the denoising time",
            "64.0 MiB, of which 1.00 MiB",
            "128 MiB",
            "unknown",
        ] {
            assert!(report.contains(part), "{part} is missing in\n{report}");
        }
        assert!(report.contains("predicted 1.60 s for denoising, took 2.00 s (+25 %)"), "{report}");
    }

    #[test]
    fn a_measured_time_replaces_the_predicted_one() {
        let report = run_report(&summary(), &Alone::Measured(3.6));
        assert!(report.contains("1.80x") && report.contains("measured"), "{report}");
        assert!(!report.contains("predicted from"), "{report}");
    }
}
