//! The figures of `bench device` as Markdown.

use asyncdiff_model::kernels::CAP_VARIABLE;

use super::kinds::KindTime;
use super::report::{CaseReport, DeviceReport};

impl DeviceReport {
    /// A table of the machine, one of the cases, and for each case one per kind of operation and of layer.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = self.machine() + "\n" + &self.cases();
        if !self.best_over_best.is_empty() {
            let ratios = self.best_over_best.iter().map(|best| format!("{} {:.2}", best.case, best.ratio));
            text += &format!("\nBest of ours / best of PyTorch: {}.\n", ratios.collect::<Vec<_>>().join(", "));
        }
        text += "\nFLOP are counted by definition (without norms and activations), and shares are of the f32 peak: bf16 and Winograd's \
                 algorithm may exceed it.\n";
        for case in &self.cases {
            text += &format!("\n### {}, {}\n\n{}", case.case, case.dtype, kinds("operation", &case.by_operation));
            if !case.by_layer.is_empty() {
                text += &format!("\n{}", kinds("layer", &case.by_layer));
            }
        }
        text
    }

    fn machine(&self) -> String {
        let cap = self.instruction_set_cap.as_deref().map_or(String::new(), |cap| format!(" ({CAP_VARIABLE}={cap})"));
        let mut rows = vec![
            ("hardware", self.hardware.clone()),
            ("instruction set", format!("{}{cap}", self.instruction_set)),
            ("threads", self.threads.to_string()),
            ("measured f32 peak", format!("{:.0} GFLOP/s", self.peak_gflops_per_s)),
            ("measured read from memory", format!("{:.1} GB/s", self.memory_gb_per_s)),
        ];
        if let Some(torch) = &self.torch {
            rows.push(("PyTorch", format!("{} ({})", torch.torch, torch.capability)));
        }
        let rows: Vec<String> = rows.into_iter().map(|(name, value)| format!("| {name} | {value} |\n")).collect();
        format!("| device | version {} |\n|---|---|\n{}", self.version, rows.concat())
    }

    fn cases(&self) -> String {
        let against = self.torch.is_some();
        let (heads, rule) = if against { (" PyTorch ms | ratio |", "--:|--:|") } else { ("", "") };
        let rows: Vec<String> = self.cases.iter().map(|case| case.row(against)).collect();
        format!(
            "| case | dtype | ms |{heads} GFLOP/s | of peak | once per job, ms | weights, MiB | of f32 |\n\
             |---|---|--:|{rule}--:|--:|--:|--:|--:|\n{}",
            rows.concat()
        )
    }
}

impl CaseReport {
    fn row(&self, against: bool) -> String {
        let torch = match (&self.torch, self.ratio) {
            (Some(torch), Some(ratio)) => format!(" {:.1} | {ratio:.2} |", torch.milliseconds),
            _ if against => " | |".to_owned(),
            _ => String::new(),
        };
        let once = self.once_per_job_milliseconds.map_or(String::new(), |milliseconds| format!("{milliseconds:.1}"));
        format!(
            "| {} | {} | {:.1} |{torch} {:.0} | {:.0} % | {once} | {:.1} | {:.2} |\n",
            self.case,
            self.dtype,
            self.milliseconds,
            self.gflops_per_s,
            100.0 * self.share_of_peak,
            self.weight_bytes as f64 / f64::from(1 << 20),
            self.weight_factor
        )
    }
}

fn kinds(head: &str, kinds: &[KindTime]) -> String {
    let rows = kinds.iter().map(|kind| {
        let (speed, of_peak) = match kind.gflops_per_s {
            0.0 => (String::new(), String::new()),
            speed => (format!("{speed:.0}"), format!("{:.0} %", 100.0 * kind.share_of_peak)),
        };
        format!(
            "| {} | {} | {:.2} | {speed} | {:.1} | {of_peak} | {:.1} % |\n",
            kind.kind,
            kind.nodes,
            kind.milliseconds,
            kind.gb_per_s,
            100.0 * kind.share_of_step
        )
    });
    let rows: String = rows.collect();
    format!("| {head} | nodes | ms | GFLOP/s | GB/s | of peak | of step |\n|---|--:|--:|--:|--:|--:|--:|\n{rows}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::device::report::{TorchVersion, best_ratios};
    use crate::bench::device::torch::TorchResult;

    fn case(dtype: &'static str, milliseconds: f64) -> CaseReport {
        let norm = KindTime {
            kind: "group norm".to_owned(),
            nodes: 3,
            milliseconds: 1.0,
            gflops_per_s: 0.0,
            gb_per_s: 20.0,
            share_of_peak: 0.0,
            share_of_step: 0.125,
        };
        CaseReport {
            case: "unet-bench",
            dtype,
            milliseconds,
            runs: 9,
            once_per_job_milliseconds: Some(2.0),
            gflop: 20.0,
            gflops_per_s: 200.0,
            share_of_peak: 0.5,
            weight_bytes: 3 << 20,
            weight_factor: 1.5,
            torch: None,
            ratio: None,
            by_operation: vec![norm],
            by_layer: Vec::new(),
        }
    }

    fn report(cases: Vec<CaseReport>, torch: Option<TorchVersion>) -> DeviceReport {
        DeviceReport {
            hardware: "a CPU, 2 cores".to_owned(),
            version: "0.1.0",
            instruction_set: "avx2",
            instruction_set_cap: Some("avx2".to_owned()),
            threads: 1,
            peak_gflops_per_s: 400.0,
            memory_gb_per_s: 30.0,
            torch,
            best_over_best: best_ratios(&cases),
            cases,
        }
    }

    /// Every table must have as many cells in each row as in its head, or it is not drawn.
    fn check_tables(text: &str) {
        let mut cells = None;
        for line in text.lines() {
            let found = line.starts_with('|').then(|| line.matches('|').count());
            assert!(found.is_none() || cells.is_none() || found == cells, "{line}\n{text}");
            cells = found;
        }
    }

    #[test]
    fn without_pytorch_there_are_no_columns_of_it() {
        let text = report(vec![case("f32", 100.0)], None).markdown();
        check_tables(&text);
        assert!(text.contains("| unet-bench | f32 | 100.0 | 200 | 50 % | 2.0 | 3.0 | 1.50 |"), "{text}");
        assert!(text.contains("| group norm | 3 | 1.00 |  | 20.0 |  | 12.5 % |"), "{text}");
        assert!(text.contains("avx2 (ASYNCDIFF_CPU=avx2)") && !text.contains("PyTorch"), "{text}");
    }

    #[test]
    fn the_best_of_both_sides_are_compared_across_formats() {
        let torch = |milliseconds| TorchResult { milliseconds, runs: 3, memory_format: "contiguous".to_owned() };
        let cases =
            vec![case("f32", 100.0).against(Some(torch(200.0))), case("bf16", 60.0).against(Some(torch(240.0)))];
        let version = TorchVersion { torch: "2.11.0".to_owned(), capability: "AVX2".to_owned() };
        let text = report(cases, Some(version)).markdown();
        check_tables(&text);
        assert!(text.contains("| unet-bench | bf16 | 60.0 | 240.0 | 0.25 |"), "{text}");
        assert!(text.contains("best of PyTorch: unet-bench 0.30."), "{text}");
    }
}
