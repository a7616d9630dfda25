//! How fast parameters may leave: a rate, if there is one. Pure: time is handed in.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

/// How far a rate may be overdrawn after a pause, in time: enough that a server that is late by a tick loses nothing, and no burst to speak of.
const BURST: Duration = Duration::from_millis(50);

/// Keeps a rate.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<NonZeroU64>,
    /// When what has left so far has taken its time.
    free: Option<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, free: None }
    }

    /// When so many bytes may leave. They count as having left then.
    pub(super) fn start(&mut self, now: Instant, bytes: u64) -> Instant {
        let Some(rate) = self.bytes_per_second else { return now };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let begin = self.free.map_or(earliest, |free| free.max(earliest));
        // Who waits for half an hour and more has a rate that makes no sense, and a clock that overflows helps nobody.
        self.free = Some(begin + takes.min(Duration::from_secs(3600)));
        begin.max(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_rate_nothing_waits() {
        let (mut pace, now) = (Pace::new(None), Instant::now());
        assert!((0..100).all(|_| pace.start(now, u64::MAX) == now));
    }

    proptest! {
        /// Over any time that begins with a first byte, no more leaves than the rate, a burst and the tensor that has just begun.
        #[test]
        fn a_rate_holds_over_any_time(rate in 1u64..1_000_000_000, tensors in prop::collection::vec((0u64..50_000_000, 0u64..200), 1..50)) {
            let mut pace = Pace::new(NonZeroU64::new(rate));
            let begin = Instant::now();
            let (mut now, mut sent) = (begin, 0u64);
            for (bytes, pause_millis) in tensors {
                let start = pace.start(now, bytes);
                prop_assert!(start >= now);
                let passed = (start - begin + BURST).as_secs_f64();
                prop_assert!(sent as f64 <= passed * rate as f64 * (1.0 + 1e-6) + 1.0 || start - begin >= Duration::from_secs(3600));
                sent += bytes;
                now = start + Duration::from_millis(pause_millis);
            }
        }
    }
}
