//! When things happened in the coordinator's part of a job.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use asyncdiff_common::wire::{TraceEvent, TraceKind};
use asyncdiff_plan::{Lane, StepIndex};
use tokio::time::Instant;

use crate::job::JobSettings;

/// Times of the denoising loop, and the coordinator's track of a trace.
pub(super) struct Recorder {
    origin: Instant,
    /// Microseconds since 1970 at `origin`; taken once, so that a clock that is set meanwhile does not bend the trace.
    origin_micros: u64,
    tracing: bool,
    /// A few per step at most.
    events: Vec<TraceEvent>,
    /// Seconds between a noise prediction's arrival and the departure of the latents that follow; at most one per step.
    turnarounds: Vec<f64>,
    first_departure: Option<Instant>,
    /// The same of the newest plan.
    first_of_plan: Option<Instant>,
    last_step: Instant,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    pub(super) events: Vec<TraceEvent>,
    pub(super) turnaround: Turnaround,
    pub(super) denoise_seconds: f64,
    /// Of these, those of the newest plan: what its ranks report on.
    pub(super) plan_seconds: f64,
}

/// Seconds between a noise prediction's arrival and the departure of the latents that follow; 0 where none followed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Turnaround {
    pub(super) median_seconds: f64,
    /// 99 of 100 took no longer.
    pub(super) p99_seconds: f64,
    pub(super) max_seconds: f64,
}

impl Recorder {
    pub(super) fn new(settings: &JobSettings, evaluations: u32) -> Self {
        let origin = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin,
            origin_micros: micros(since_1970),
            tracing: settings.trace,
            events: Vec::new(),
            turnarounds: Vec::with_capacity(evaluations as usize),
            first_departure: None,
            first_of_plan: None,
            last_step: origin,
        }
    }

    /// Latents left. `arrived`: when the noise prediction arrived that made them possible.
    pub(super) fn departed(&mut self, arrived: Option<Instant>, now: Instant) {
        self.first_departure.get_or_insert(now);
        self.first_of_plan.get_or_insert(now);
        if let Some(arrived) = arrived {
            self.turnarounds.push(now.duration_since(arrived).as_secs_f64());
        }
    }

    /// A noise prediction was taken in.
    pub(super) fn predicted(&mut self, step: StepIndex, lane: Lane, arrived: Instant, now: Instant) {
        self.event(TraceKind::Predicted(step, lane), arrived, now);
    }

    /// A step was taken.
    pub(super) fn stepped(&mut self, step: StepIndex, start: Instant, now: Instant) {
        self.last_step = now;
        self.event(TraceKind::SchedulerStep(step), start, now);
    }

    /// The steps that are left are made by another plan.
    pub(super) fn replanned(&mut self) {
        self.first_of_plan = None;
    }

    /// Seconds from the first latents' departure until now.
    pub(super) fn denoise_seconds(&self) -> f64 {
        self.first_departure.map_or(0.0, |first| first.elapsed().as_secs_f64())
    }

    pub(super) fn finish(self) -> Recorded {
        let since = |first: Option<Instant>| {
            self.last_step.saturating_duration_since(first.unwrap_or(self.last_step)).as_secs_f64()
        };
        Recorded {
            denoise_seconds: since(self.first_departure),
            plan_seconds: since(self.first_of_plan),
            events: self.events,
            turnaround: Turnaround::of(self.turnarounds),
        }
    }

    fn event(&mut self, kind: TraceKind, start: Instant, end: Instant) {
        if self.tracing {
            let start_micros = self.origin_micros + micros(start.saturating_duration_since(self.origin));
            let duration_micros = micros(end.saturating_duration_since(start));
            self.events.push(TraceEvent { kind, run: None, start_micros, duration_micros });
        }
    }
}

impl Turnaround {
    fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        // The nearest rank: a time that was taken, and none between two.
        let of_percent = |percent: usize| {
            let rank = (seconds.len() * percent).div_ceil(100);
            seconds.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { median_seconds: of_percent(50), p99_seconds: of_percent(99), max_seconds: of_percent(100) }
    }
}

/// Whole microseconds; centuries are cut off.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_turnaround_of_a_hundred_is_the_longest_and_not_the_p99() {
        let mut seconds: Vec<f64> = (1..=99).map(f64::from).collect();
        seconds.insert(50, 1000.0);
        let found = Turnaround::of(seconds);
        assert_eq!(found, Turnaround { median_seconds: 50.0, p99_seconds: 99.0, max_seconds: 1000.0 });
    }

    #[test]
    fn few_turnarounds_have_figures_and_none_has_zeros() {
        let one = Turnaround { median_seconds: 2.0, p99_seconds: 2.0, max_seconds: 2.0 };
        assert_eq!(Turnaround::of(vec![2.0]), one);
        assert_eq!(Turnaround::of(Vec::new()), Turnaround::default());
    }
}
