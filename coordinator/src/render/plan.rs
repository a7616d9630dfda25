//! A plan as text: the split, what it is expected to take, what travels, who waits, and the first rounds drawn.

use std::fmt::Write;

use asyncdiff_common::config::{format_bytes, format_seconds};
use comfy_table::{Table, presets};

use crate::api::{ComponentView, PlanView};

/// A plan as `coordinator plan` prints it.
#[must_use]
pub fn plan_text(plan: &PlanView) -> String {
    let mut text = format!("{}\n", plan.reason);
    for note in &plan.notes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "note: {note}");
    }
    let _ = writeln!(text, "\n{}", components(plan));
    let steps = f64::from(plan.steps.max(1));
    let _ = writeln!(
        text,
        "\npredicted: {} per step, {} for {} steps; one worker alone {}; speed-up {:.2}x",
        format_seconds(plan.predicted_seconds / steps),
        format_seconds(plan.predicted_seconds),
        plan.steps,
        format_seconds(plan.alone_seconds),
        plan.alone_seconds / plan.predicted_seconds.max(f64::MIN_POSITIVE),
    );
    let _ = writeln!(text, "{} per step travel between workers", format_bytes(plan.bytes_per_step));
    for edge in &plan.edges {
        let bytes = format_bytes(edge.bytes_per_step);
        let _ = writeln!(text, "  {} → {}: {bytes}, {}", edge.from, edge.to, edge.encoding);
    }
    for link in &plan.links {
        let (latency, speed) = (format_seconds(link.latency_seconds), format_bytes(link.bytes_per_second));
        let _ = writeln!(text, "  link {} → {}: {latency} and {speed} per second", link.from, link.to);
    }
    for (rank, idle) in plan.idle.iter().enumerate() {
        let worker = plan.workers.get(rank).map_or("", String::as_str);
        let _ = writeln!(text, "r{rank} {worker}: idle {:.0} % of the time", idle * 100.0);
    }
    let _ = write!(text, "\nfirst rounds, a line per rank ([component·step]):\n{}", plan.drawing);
    text
}

fn components(plan: &PlanView) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["component", "layers", "of the work", "parameters", "as held", "activations", "which"]);
    for (index, component) in plan.components.iter().enumerate() {
        table.add_row([
            format!("c{index}"),
            component.layers.len().to_string(),
            format!("{:.0} %", component.share * 100.0),
            format_bytes(component.parameter_bytes as f64),
            held(component, &plan.dtype),
            format_bytes(component.activation_bytes as f64),
            spans(component),
        ]);
    }
    table
}

/// What the parameters take in memory, and how much more or less that is than 4 bytes each.
fn held(component: &ComponentView, dtype: &str) -> String {
    let factor = component.resident_bytes as f64 / component.parameter_bytes.max(1) as f64;
    format!("{} (x{factor:.2}, {dtype})", format_bytes(component.resident_bytes as f64))
}

/// The layers by their blocks: `conv_in, down_blocks.0, mid_block`; the layers themselves are in the JSON.
fn spans(component: &ComponentView) -> String {
    let mut blocks: Vec<String> = Vec::new();
    for layer in &component.layers {
        let mut parts = layer.split('.');
        let block = match (parts.next(), parts.next()) {
            (Some(list), Some(index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => format!("{list}.{index}"),
            (Some(first), _) => first.to_owned(),
            (None, _) => continue,
        };
        if blocks.last() != Some(&block) {
            blocks.push(block);
        }
    }
    blocks.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use asyncdiff_plan::Encoding;

    use crate::api::{EdgeView, LinkView};

    #[test]
    fn a_plan_is_printed_with_split_time_bytes_and_drawing() {
        let layers = ["conv_in", "down_blocks.0.resnets.0", "down_blocks.0.resnets.1", "mid_block.resnets.0"];
        let component = ComponentView {
            layers: layers.map(str::to_owned).to_vec(),
            share: 0.48,
            parameter_bytes: 1 << 20,
            resident_bytes: 3 << 19,
            activation_bytes: 1 << 19,
        };
        let plan = PlanView {
            reason: "2 components".into(),
            notes: vec!["guidance is off".into()],
            dtype: "f32".into(),
            components: vec![component],
            workers: vec!["a".into()],
            steps: 50,
            stride: 1,
            warm_up: 1,
            predicted_seconds: 5.0,
            alone_seconds: 9.0,
            bytes_per_step: 2048.0,
            edges: vec![EdgeView {
                from: "c0".into(),
                to: "r1".into(),
                encoding: Encoding::Delta8,
                bytes_per_step: 2048.0,
            }],
            links: vec![LinkView {
                from: "r0".into(),
                to: "r1".into(),
                latency_seconds: 0.002,
                bytes_per_second: 1_048_576.0,
                busy_seconds_per_byte: 1e-9,
                busy_seconds_per_tensor: 1e-5,
            }],
            idle: vec![0.04],
            drawing: "  r0 [c0·0──]\n".into(),
        };
        let text = plan_text(&plan);
        for part in [
            "conv_in, down_blocks.0, mid_block",
            "48 %",
            "1.50 MiB (x1.50, f32)",
            "100 ms per step",
            "1.80x",
            "c0 → r1: 2.00 KiB",
            "link r0 → r1: 2.00 ms and 1.00 MiB per second",
            "idle 4 %",
            "[c0·0──]",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
