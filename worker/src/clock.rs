//! One clock for durations and for a trace's timestamps; it follows tokio's, so that a simulated cluster's trace shows simulated time.

use tokio::time::Instant;

use asyncdiff_common::system;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    origin_micros: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { origin: Instant::now(), origin_micros: system::unix_micros() }
    }

    /// Microseconds since 1970.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        self.origin_micros + at.saturating_duration_since(self.origin).as_micros() as u64
    }
}
