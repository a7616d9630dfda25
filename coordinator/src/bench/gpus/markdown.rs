//! The figures of `bench gpus` as a Markdown table.

use asyncdiff_common::config::format_bytes;

use super::{GpusReport, GpusRow};

impl GpusReport {
    /// A row for each model, number of workers and stride.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text =
            format!("{} workers on {}, {} steps, version {}\n\n", self.device, self.hardware, self.steps, self.version);
        text += "| model | workers | stride | components | ms per step | speed-up | predicted, ms | bytes per step | by NCCL | computing | parameters by rank | \
                 memory of processes |\n";
        text += "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|---|---|\n";
        for row in &self.rows {
            text += &line(row);
        }
        text
    }
}

fn line(row: &GpusRow) -> String {
    let summary = &row.summary;
    let predicted = summary.predicted_seconds * 1e3 / f64::from(summary.steps.max(1));
    let busy: Vec<String> = summary.busy.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect();
    let bytes = |bytes: &[u64]| {
        let all: Vec<String> = bytes.iter().map(|&bytes| format_bytes(bytes as f64)).collect();
        all.join(", ")
    };
    format!(
        "| {} | {} | {} | {} | {:.2} | {:.2}x | {predicted:.2} | {} | {} | {} | {} | {} |\n",
        row.model.name(),
        row.workers,
        row.stride,
        summary.components,
        row.step_milliseconds,
        row.speed_up,
        format_bytes(summary.bytes_per_step),
        format_bytes(summary.nccl_bytes_per_step),
        busy.join(", "),
        bytes(&summary.resident_bytes),
        bytes(&summary.peak_memory_bytes),
    )
}
