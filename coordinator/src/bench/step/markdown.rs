//! The figures of `bench step` as Markdown tables.

use std::fmt::Write;

use asyncdiff_common::config::format_bytes;

use super::{StepCase, StepReport};

impl StepReport {
    /// A table of the cases, and one of each case's kinds of layers.
    #[must_use]
    pub fn markdown(&self) -> String {
        let device = self.gpu.as_deref().unwrap_or(&self.hardware);
        let mut text = format!("{}, {device}, version {}\n\n", self.device, self.version);
        text += "| model | type | ms per step | in a row | first | TFLOP | TFLOP/s | weights | memory of the GPU |\n";
        text += "|---|---|--:|--:|--:|--:|--:|--:|--:|\n";
        for case in &self.cases {
            text += &row(case);
        }
        for case in &self.cases {
            text += &kinds(case);
        }
        text
    }
}

fn row(case: &StepCase) -> String {
    let bytes = |bytes: u64| format_bytes(bytes as f64);
    format!(
        "| {} | {} | {:.2} | {:.2} | {:.0} | {:.3} | {:.1} | {} | {} |\n",
        case.model.name(),
        case.format,
        case.milliseconds,
        case.in_a_row_milliseconds,
        case.first_milliseconds,
        case.tflop,
        case.tflop_per_s,
        bytes(case.weight_bytes),
        case.device_bytes.map_or_else(String::new, bytes),
    )
}

fn kinds(case: &StepCase) -> String {
    let mut text = format!("\n{} in {}:\n\n", case.model.title(), case.format);
    text += "| layers | number | ms | share | TFLOP/s |\n|---|--:|--:|--:|--:|\n";
    for kind in &case.kinds {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {:.3} | {:.1} % | {:.1} |",
            kind.kind,
            kind.layers,
            kind.milliseconds,
            100.0 * kind.share,
            kind.tflop_per_s
        );
    }
    text
}
