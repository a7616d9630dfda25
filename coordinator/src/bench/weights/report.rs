//! The figures of `bench weights` as JSON and Markdown.

use serde::Serialize;

/// What [`WeightsBench`](super::WeightsBench) found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsReport {
    /// The processor, and how many of its cores there are.
    pub hardware: String,
    /// The version of this program.
    pub version: &'static str,
    /// Bytes of the checkpoint's parameters.
    pub checkpoint_bytes: u64,
    /// Seconds of a copy of the file onto the same file system.
    pub copy_seconds: f64,
    /// The cases.
    pub rows: Vec<WeightsRow>,
    /// A job's steps while another worker is fed, by the coordinator's rate.
    pub feeding: Vec<FeedingRow>,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightsRow {
    /// How the workers begin.
    pub case: &'static str,
    /// How many begin at once.
    pub workers: usize,
    /// From the request until the last one has loaded everything.
    pub seconds: f64,
    /// Bytes that the coordinator sent.
    pub coordinator_bytes: u64,
    /// Bytes that workers sent each other.
    pub peer_bytes: u64,
}

/// A job beside a worker that is fed all the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeedingRow {
    /// Bytes per second that the coordinator is limited to.
    pub rate: Option<u64>,
    /// Seconds of a step while nobody is fed: the median.
    pub undisturbed_step_seconds: f64,
    /// The same while another worker is fed.
    pub fed_step_seconds: f64,
    /// Bytes that it was fed per second.
    pub fed_bytes_per_second: f64,
}

impl WeightsReport {
    /// The figures as tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let mut text = format!(
            "{}, version {}. A checkpoint of {:.0} MB; `cp` of it takes {:.2} s.\n\n\
             | workers at once | that | seconds | of a copy each | MB from the coordinator | MB from workers |\n|--:|---|--:|--:|--:|--:|\n",
            self.hardware,
            self.version,
            megabytes(self.checkpoint_bytes),
            self.copy_seconds
        );
        for row in &self.rows {
            let copies = row.seconds / self.copy_seconds / row.workers as f64;
            text += &format!(
                "| {} | {} | {:.2} | {copies:.1} | {:.0} | {:.0} |\n",
                row.workers,
                row.case,
                row.seconds,
                megabytes(row.coordinator_bytes),
                megabytes(row.peer_bytes)
            );
        }
        text += "\n| rate of the coordinator | step alone, ms | step while another worker is fed, ms | ratio | fed with, MB/s |\n|--:|--:|--:|--:|--:|\n";
        for row in &self.feeding {
            let rate = row.rate.map_or("none".to_owned(), |rate| format!("{:.0} MB/s", megabytes(rate)));
            text += &format!(
                "| {rate} | {:.1} | {:.1} | {:.2} | {:.0} |\n",
                1e3 * row.undisturbed_step_seconds,
                1e3 * row.fed_step_seconds,
                row.fed_step_seconds / row.undisturbed_step_seconds,
                row.fed_bytes_per_second / 1e6
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_a_line_for_each_case() {
        let row = WeightsRow { case: "begin", workers: 2, seconds: 4.0, coordinator_bytes: 5_000_000, peer_bytes: 0 };
        let fed =
            FeedingRow { rate: None, undisturbed_step_seconds: 0.1, fed_step_seconds: 0.2, fed_bytes_per_second: 1e6 };
        let report = WeightsReport {
            hardware: "a processor".to_owned(),
            version: "1",
            checkpoint_bytes: 5_000_000,
            copy_seconds: 0.5,
            rows: vec![row],
            feeding: vec![fed],
        };
        let text = report.markdown();
        assert!(text.contains("| 2 | begin | 4.00 | 4.0 | 5 | 0 |"), "{text}");
        assert!(text.contains("| none | 100.0 | 200.0 | 2.00 | 1 |"), "{text}");
    }
}
