//! How long the coordinator waits and how much it keeps.

use std::num::NonZeroU64;
use std::time::Duration;

/// Deadlines and bounds. Defaults are those of the shipped configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Jobs that may wait in the queue.
    pub queue_length: usize,
    /// Jobs that may run at the same time, each with workers of its own.
    pub side_by_side: usize,
    /// Jobs whose records and results are kept after their end, the newest.
    pub kept_jobs: usize,
    /// Bytes that the pictures and traces of these may take.
    pub kept_bytes: u64,
    /// How much of the time saving a job's progress may take, in percent.
    pub saving_percent: u32,
    /// Bytes of parameters that the coordinator sends per second at most, to all workers together; absent: as fast as links and disk allow.
    pub weights_bytes_per_second: Option<NonZeroU64>,
    /// How often a worker sends a heartbeat.
    pub heartbeat_interval: Duration,
    /// Without a heartbeat for this long a worker is lost. Several times [`Self::heartbeat_interval`].
    pub lost_after: Duration,
    /// How long a coordinator that was started again waits for the workers that its jobs ran on.
    pub return_within: Duration,
    /// How long a worker may take from its link to its `Hello`.
    pub hello_within: Duration,
    /// How long encoding a prompt may take, its weights' way to the worker included.
    pub encode_within: Duration,
    /// How long measuring layers may take.
    pub measure_within: Duration,
    /// How long loading components, or the decoder, may take, the weights' way to the worker included.
    pub load_within: Duration,
    /// How long no noise prediction may arrive before the job counts as stuck; extended for slow devices, see
    /// [`Self::step_limit`].
    pub step_within: Duration,
    /// How long decoding may take.
    pub decode_within: Duration,
    /// How long a worker may take to forget a job and report.
    pub release_within: Duration,
    /// How long a job may take from its submission to its end.
    pub job_within: Duration,
    /// How long a running job that has lost its workers waits for others.
    pub wait_for_workers: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_length: 64,
            side_by_side: 8,
            kept_jobs: 100,
            kept_bytes: 256 << 20,
            saving_percent: 1,
            weights_bytes_per_second: None,
            heartbeat_interval: Duration::from_millis(250),
            lost_after: Duration::from_millis(1500),
            return_within: Duration::from_secs(5),
            hello_within: Duration::from_secs(5),
            encode_within: Duration::from_secs(300),
            measure_within: Duration::from_secs(300),
            load_within: Duration::from_secs(900),
            step_within: Duration::from_secs(60),
            decode_within: Duration::from_secs(300),
            release_within: Duration::from_secs(5),
            job_within: Duration::from_secs(24 * 3600),
            wait_for_workers: Duration::from_secs(600),
        }
    }
}

/// How many predicted steps may pass without a noise prediction: devices are shared and slow down, but not twentyfold.
const SLOW_DOWN: f64 = 20.0;

impl Limits {
    /// How long nothing may arrive at a predicted time per step: a device that takes minutes per step is slow, not
    /// stuck.
    #[must_use]
    pub fn step_limit(&self, predicted_step_seconds: f64) -> Duration {
        let slow = Duration::try_from_secs_f64(SLOW_DOWN * predicted_step_seconds).unwrap_or(self.step_within);
        self.step_within.max(slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_limit_grows_with_slow_devices_only() {
        let limits = Limits::default();
        assert_eq!(limits.step_limit(0.5), limits.step_within);
        assert_eq!(limits.step_limit(30.0), Duration::from_secs(600));
        assert_eq!(limits.step_limit(f64::NAN), limits.step_within);
    }
}
