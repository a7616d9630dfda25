//! How long a worker's device waits at each step for the way through the coordinator: assumed at first, then what jobs showed.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What guidance, the noise scheduler and two hops to the coordinator's actor take where nothing else keeps the cores busy.
const ASSUMED_SECONDS: f64 = 0.000_3;

/// What jobs may show: less is no time, and more is something else that held the job up.
const LEAST_SECONDS: f64 = 0.000_1;
const MOST_SECONDS: f64 = 0.005;

/// For how long it counts what a job showed.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Of one session.
#[derive(Debug, Default)]
pub(super) struct Turnaround(Mutex<Option<(f64, Instant)>>);

impl Turnaround {
    pub(super) fn seconds(&self) -> f64 {
        self.known().unwrap_or(ASSUMED_SECONDS)
    }

    /// A device waited so much longer per step than was predicted; less if it is negative. Several jobs are averaged, the newest counts half.
    pub(super) fn note(&self, longer_seconds: f64) {
        if !longer_seconds.is_finite() {
            return;
        }
        let known = self.known();
        let found = (known.unwrap_or(ASSUMED_SECONDS) + longer_seconds).clamp(LEAST_SECONDS, MOST_SECONDS);
        let seconds = known.map_or(found, |known| f64::midpoint(known, found));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((seconds, Instant::now()));
    }

    fn known(&self) -> Option<f64> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, since)| since.elapsed() < KNOWN_FOR).map(|(seconds, _)| seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_jobs_waited_is_averaged_bounded_and_forgotten() {
        let turnaround = Turnaround::default();
        turnaround.note(0.001);
        assert_eq!(turnaround.seconds(), 0.0013);
        turnaround.note(-0.0004);
        assert!((turnaround.seconds() - 0.0011).abs() < 1e-12);
        turnaround.note(f64::NAN);
        turnaround.note(100.0);
        assert!((turnaround.seconds() - 0.003_05).abs() < 1e-12);
        for _job in 0..60 {
            turnaround.note(-100.0);
        }
        assert!((turnaround.seconds() - LEAST_SECONDS).abs() < 1e-9);
        tokio::time::advance(KNOWN_FOR).await;
        assert_eq!(turnaround.seconds(), ASSUMED_SECONDS);
    }
}
