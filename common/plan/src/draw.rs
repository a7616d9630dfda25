//! Draws a plan's first rounds as text: a line per rank, time from left to right.

use crate::{PlacedPlan, Prediction, RunId, RunSpan};

/// Columns of the drawing beside the ranks' names.
const WIDTH: usize = 88;

/// Steps after the warm-up that are drawn.
const ROUNDS: u32 = 3;

/// Draws the runs of the last warm-up step and the first rounds. Each bar is a component run, labelled with its component, step and, for one
/// guidance half, `u` or `c`.
#[must_use]
pub fn draw(placed: &PlacedPlan, prediction: &Prediction) -> String {
    let schedule = &placed.plan.schedule;
    let first = schedule.warm_up_steps().saturating_sub(1).max(schedule.first.0);
    let last = first + ROUNDS * schedule.stride.get();
    let shown: Vec<&RunSpan> =
        prediction.timeline.iter().filter(|span| (first..=last).contains(&span.run.step.0)).collect();
    let start = shown.iter().map(|span| span.start_seconds).fold(f64::INFINITY, f64::min);
    let end = shown.iter().map(|span| span.end_seconds).fold(0.0, f64::max);
    let scale = WIDTH as f64 / (end - start).max(f64::MIN_POSITIVE);
    let mut drawing = String::new();
    for rank in placed.ranks() {
        let mut line = vec![' '; WIDTH];
        for span in shown.iter().filter(|span| span.rank == rank) {
            let from = ((span.start_seconds - start) * scale) as usize;
            let to = (((span.end_seconds - start) * scale) as usize).clamp(from + 1, WIDTH.max(from + 1));
            let bar = bar(span.run, to - from);
            for (cell, mark) in line.iter_mut().skip(from).zip(bar.chars()) {
                *cell = mark;
            }
        }
        let line: String = line.into_iter().collect();
        drawing.push_str(&format!("{rank:>4} {}\n", line.trim_end()));
    }
    drawing
}

fn bar(run: RunId, width: usize) -> String {
    let lane = match run.lane {
        crate::Lane::Conditional => "c",
        crate::Lane::Unconditional => "u",
        crate::Lane::Whole => "",
    };
    let label = format!("[{}·{}{lane}", run.component, run.step.0);
    let mut bar: String = label.chars().take(width).collect();
    while bar.chars().count() + 1 < width {
        bar.push('─');
    }
    if bar.chars().count() < width {
        bar.push(']');
    }
    bar
}
