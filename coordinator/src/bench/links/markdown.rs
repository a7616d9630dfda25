//! The figures of `bench links` as Markdown.

use asyncdiff_transport::bench::{BenchCarrier, LinkFigures};

use super::LinksReport;

impl LinksReport {
    /// A table of the machine and one of the figures.
    #[must_use]
    pub fn markdown(&self) -> String {
        let rows: String = self.figures.iter().map(|found| self.row(found)).collect();
        format!(
            "| links | version {} |\n|---|---|\n| hardware | {} |\n| tensors in flight | {} |\n| time of each row | {} s |\n\n\
             | tensor | carrier | GB/s | of TCP + TLS | CPU s/GB | latency p50, ms | p99, ms | heartbeat p99, ms |\n\
             |---|---|--:|--:|--:|--:|--:|--:|\n{rows}\n\
             Both ends are in one process. Throughput and CPU time (of both ends) are medians of slices that take turns. A heartbeat is the \
             round trip of a control frame beside the tensors in flight.\n",
            self.version, self.hardware, self.in_flight, self.seconds
        )
    }

    fn row(&self, found: &LinkFigures) -> String {
        let heartbeat = found.heartbeat_p99_ms.map_or(String::new(), |p99| format!("{p99:.1}"));
        let of_tcp = self.tcp(found.tensor_bytes).map_or(String::new(), |tcp| format!("{:.2}", found.gb_per_s / tcp));
        format!(
            "| {} | {} | {:.2} | {of_tcp} | {:.2} | {:.2} | {:.2} | {heartbeat} |\n",
            found.size(),
            found.carrier,
            found.gb_per_s,
            found.cpu_seconds_per_gb,
            found.latency_p50_ms,
            found.latency_p99_ms
        )
    }

    /// What everything is held against, at a size.
    fn tcp(&self, tensor_bytes: usize) -> Option<f64> {
        let is_it = |found: &&LinkFigures| found.carrier == BenchCarrier::TcpTls && found.tensor_bytes == tensor_bytes;
        self.figures.iter().find(is_it).map(|found| found.gb_per_s).filter(|&rate| rate > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(carrier: BenchCarrier, gb_per_s: f64, heartbeat_p99_ms: Option<f64>) -> LinkFigures {
        LinkFigures {
            carrier,
            tensor_bytes: 5 << 20,
            gb_per_s,
            cpu_seconds_per_gb: 0.5,
            latency_p50_ms: 1.0,
            latency_p99_ms: 2.0,
            heartbeat_p99_ms,
        }
    }

    #[test]
    fn carriers_are_held_against_tcp_in_rows_of_one_width() {
        let report = LinksReport {
            hardware: "a CPU, 2 cores".to_owned(),
            version: "0.1.0",
            in_flight: 4,
            seconds: 3.0,
            figures: vec![figures(BenchCarrier::Quic, 3.0, Some(4.0)), figures(BenchCarrier::TcpTls, 2.0, None)],
        };
        let text = report.markdown();
        assert!(text.contains("| 5 MiB | QUIC | 3.00 | 1.50 | 0.50 | 1.00 | 2.00 | 4.0 |"), "{text}");
        assert!(text.contains("| 5 MiB | TCP + TLS | 2.00 | 1.00 | 0.50 | 1.00 | 2.00 |  |"), "{text}");
        let cells: Vec<usize> =
            text.lines().filter(|line| line.starts_with("| 5")).map(|line| line.matches('|').count()).collect();
        let head = text.lines().find(|line| line.starts_with("| tensor |")).map(|line| line.matches('|').count());
        assert!(cells.iter().all(|&cells| Some(cells) == head), "{text}");
    }

    #[test]
    fn json_names_carriers() {
        let json = serde_json::to_string(&figures(BenchCarrier::SharedMemoryLent, 1.0, None)).unwrap();
        assert!(json.starts_with(r#"{"carrier":"shared_memory_lent","tensor_bytes":5242880,"#), "{json}");
    }
}
