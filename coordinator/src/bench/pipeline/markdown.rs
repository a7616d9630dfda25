//! The figures of `bench pipeline` as a Markdown table: a column for each model and type.

use super::memory::WorkerMemory;
use super::report::{CaseReport, PipelineReport};

/// A row: its name, and what it says of a case.
type Row = (String, fn(&CaseReport) -> String);

impl PipelineReport {
    /// A table of the machine and one of the figures.
    #[must_use]
    pub fn markdown(&self) -> String {
        let torch = self
            .torch
            .as_ref()
            .map_or(String::new(), |version| format!("| PyTorch | {} ({}) |\n", version.torch, version.capability));
        let mut text = format!(
            "| pipeline | version {} |\n|---|---|\n| hardware | {} |\n{torch}\
             | settings | {} thread(s) per worker, medians of {} repeats |\n\n",
            self.version, self.hardware, self.threads_per_worker, self.repeats
        );
        text += &self.line("", |case| format!("{} {}", case.case, case.dtype));
        text += &format!("|---|{}\n", "---|".repeat(self.cases.len()));
        for (name, cell) in self.rows() {
            text += &self.line(&name, cell);
        }
        text
    }

    fn line(&self, name: &str, cell: impl Fn(&CaseReport) -> String) -> String {
        let cells: String = self.cases.iter().map(|case| format!(" {} |", cell(case))).collect();
        format!("| {name} |{cells}\n")
    }

    fn rows(&self) -> Vec<Row> {
        let twice = 2 * self.threads_per_worker;
        let mut rows: Vec<Row> = vec![
            ("steps, stride, warm-up".into(), |case| format!("{}, {}, {}", case.steps, case.stride, case.warm_up)),
            ("one worker".into(), |case| time(case, case.one_worker_seconds)),
            ("two workers".into(), |case| time(case, case.two_workers_seconds)),
            (format!("one worker with {twice} threads"), |case| time(case, case.twice_the_threads_seconds)),
            ("speed-up of two workers".into(), |case| {
                format!("{:.2}x (the split allows {:.2}x)", case.speed_up, case.ideal_speed_up)
            }),
            (format!("speed-up of {twice} threads"), |case| format!("{:.2}x", case.twice_the_threads_speed_up)),
            ("two independent copies".into(), |case| format!("{:.2}x", case.independent_copies)),
            ("of what those allow".into(), |case| format!("{:.2}", case.of_reachable)),
            ("computing: each of two, one alone".into(), busy),
            ("two compute, of one alone".into(), |case| format!("{:.3}", case.computing)),
            ("predicted / measured time".into(), |case| format!("{:.2}", case.predicted_over_measured)),
            ("bytes per step".into(), |case| format!("{:.0}", case.bytes_per_step)),
            ("predicted / counted bytes".into(), |case| format!("{:.3}", case.predicted_bytes_over_counted)),
            ("coordinator's turnaround, p50".into(), |case| format!("{:.3} ms", case.turnaround_seconds * 1e3)),
            ("weights by worker".into(), weights),
            ("resident memory by worker".into(), |case| memory(case, |worker| worker.bytes() as f64)),
            ("beyond weights and activations".into(), |case| memory(case, |worker| worker.beyond_bytes as f64)),
        ];
        if self.torch.is_some() {
            rows.push((format!("PyTorch, {} thread(s)", self.threads_per_worker), |case| torch(case, 0)));
            rows.push((format!("PyTorch, {twice} threads"), |case| torch(case, 1)));
        }
        rows
    }
}

fn time(case: &CaseReport, seconds: f64) -> String {
    format!("{seconds:.2} s, {:.1} ms per step", seconds * 1e3 / f64::from(case.steps))
}

fn busy(case: &CaseReport) -> String {
    case.busy.iter().map(|share| format!("{:.0} %", 100.0 * share)).collect::<Vec<_>>().join(", ")
}

fn weights(case: &CaseReport) -> String {
    let weights = case.weights.iter().map(|weights| {
        let ratio = weights.resident_bytes as f64 / weights.share_bytes as f64;
        format!("{:.1} MiB ({ratio:.2} of its share)", weights.resident_bytes as f64 / f64::from(1 << 20))
    });
    weights.collect::<Vec<_>>().join(", ")
}

/// In MB, as the limit of what may be beyond is said.
fn memory(case: &CaseReport, bytes: fn(&WorkerMemory) -> f64) -> String {
    case.memory.iter().map(|worker| format!("{:.0} MB", bytes(worker) / 1e6)).collect::<Vec<_>>().join(", ")
}

fn torch(case: &CaseReport, index: usize) -> String {
    case.torch.get(index).map_or(String::new(), |torch| {
        format!("{:.1} ms per step; two workers take {:.2} of that", torch.milliseconds, torch.two_workers_ratio)
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::case;
    use super::*;
    use crate::bench::device::TorchVersion;

    fn report(has_torch: bool) -> PipelineReport {
        let version = || TorchVersion { torch: "2.11.0".to_owned(), capability: "AVX512".to_owned() };
        PipelineReport {
            hardware: "a CPU, 2 cores".to_owned(),
            version: "0.1.0",
            repeats: 3,
            threads_per_worker: 1,
            torch: has_torch.then(version),
            cases: vec![case(has_torch), case(has_torch)],
        }
    }

    #[test]
    fn every_row_has_a_cell_for_each_case() {
        for has_torch in [false, true] {
            let text = report(has_torch).markdown();
            let table = text.split("\n\n").nth(1).unwrap();
            assert!(table.lines().all(|line| line.matches('|').count() == 4), "{table}");
            assert!(table.contains("| speed-up of two workers | 2.00x (the split allows 1.96x) |"), "{table}");
            assert_eq!(text.contains("two workers take 0.25 of that"), has_torch, "{text}");
        }
    }
}
