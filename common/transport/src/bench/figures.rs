//! From slices to figures.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::{BenchCarrier, Streamed};

/// How one carrier does at one size.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkFigures {
    /// Which.
    pub carrier: BenchCarrier,
    /// Bytes of a tensor.
    pub tensor_bytes: usize,
    /// With some tensors in flight: median of the slices, in 1e9 bytes per second.
    pub gb_per_s: f64,
    /// Of both ends, for 1e9 bytes: median of the slices.
    pub cpu_seconds_per_gb: f64,
    /// From one end to the other with nothing else in flight: median.
    pub latency_p50_ms: f64,
    /// The same: 99th percentile.
    pub latency_p99_ms: f64,
    /// Round trips of control frames beside the tensors in flight: 99th percentile. Only links have them.
    pub heartbeat_p99_ms: Option<f64>,
}

/// What was found in a slice.
pub(super) struct Slice {
    pub(super) streamed: Streamed,
    pub(super) cpu: Duration,
    pub(super) latencies: Vec<Duration>,
}

/// All slices of a carrier at a size.
#[derive(Default)]
pub(super) struct Slices {
    /// Tensors per second.
    rates: Vec<f64>,
    /// CPU seconds per tensor.
    cpu: Vec<f64>,
    latencies: Vec<f64>,
    heartbeats: Vec<f64>,
}

impl Slices {
    pub(super) fn add(&mut self, slice: Slice) {
        let Slice { streamed: Streamed { tensors, elapsed, heartbeats }, cpu, latencies } = slice;
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        self.rates.push(tensors as f64 / elapsed.as_secs_f64());
        self.cpu.push(cpu.as_secs_f64() / tensors.max(1) as f64);
        self.latencies.extend(latencies.into_iter().map(milliseconds));
        self.heartbeats.extend(heartbeats.into_iter().map(milliseconds));
    }

    pub(super) fn figures(self, carrier: BenchCarrier, tensor_bytes: usize) -> LinkFigures {
        let gigabytes = tensor_bytes as f64 / 1e9;
        LinkFigures {
            carrier,
            tensor_bytes,
            gb_per_s: quantile(self.rates, 0.5).unwrap_or_default() * gigabytes,
            cpu_seconds_per_gb: quantile(self.cpu, 0.5).unwrap_or_default() / gigabytes,
            latency_p50_ms: quantile(self.latencies.clone(), 0.5).unwrap_or_default(),
            latency_p99_ms: quantile(self.latencies, 0.99).unwrap_or_default(),
            heartbeat_p99_ms: quantile(self.heartbeats, 0.99),
        }
    }
}

impl LinkFigures {
    /// The tensor's size as people write it.
    #[must_use]
    pub fn size(&self) -> String {
        match self.tensor_bytes {
            bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            bytes => format!("{} KiB", bytes >> 10),
        }
    }

    /// For whoever waits.
    pub(super) fn line(&self) -> String {
        let heartbeat = self.heartbeat_p99_ms.map_or(String::new(), |p99| format!(", heartbeat p99 {p99:.1} ms"));
        format!(
            "{}, {}: {:.2} GB/s, {:.2} CPU s/GB, latency p50 {:.2} ms, p99 {:.2} ms{heartbeat}",
            self.size(),
            self.carrier,
            self.gb_per_s,
            self.cpu_seconds_per_gb,
            self.latency_p50_ms,
            self.latency_p99_ms
        )
    }
}

/// CPU time of this process so far, of all threads.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The smallest value that at least that part of the values does not exceed.
fn quantile(mut values: Vec<f64>, part: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (part * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(values.clone(), part)), [Some(50.0), Some(99.0), Some(100.0)]);
        assert_eq!([quantile(vec![7.0], 0.99), quantile(vec![], 0.5)], [Some(7.0), None]);
    }

    #[test]
    fn figures_are_medians_of_slices() {
        let mut slices = Slices::default();
        for milliseconds in [100, 200, 1000] {
            let elapsed = Duration::from_millis(milliseconds);
            let streamed = Streamed { tensors: 100, elapsed, heartbeats: vec![Duration::from_millis(3)] };
            slices.add(Slice { streamed, cpu: elapsed * 2, latencies: vec![elapsed] });
        }
        let figures = slices.figures(BenchCarrier::Quic, 10_000_000);
        assert_eq!((figures.gb_per_s, figures.cpu_seconds_per_gb), (5.0, 0.4));
        assert_eq!((figures.latency_p50_ms, figures.heartbeat_p99_ms), (200.0, Some(3.0)));
    }
}
