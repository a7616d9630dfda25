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
    last_step: Instant,
}

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    pub(super) events: Vec<TraceEvent>,
    pub(super) median_turnaround_seconds: f64,
    pub(super) denoise_seconds: f64,
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
            last_step: origin,
        }
    }

    /// Latents left. `arrived`: when the noise prediction arrived that made them possible.
    pub(super) fn departed(&mut self, arrived: Option<Instant>, now: Instant) {
        self.first_departure.get_or_insert(now);
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

    pub(super) fn finish(mut self) -> Recorded {
        let first = self.first_departure.unwrap_or(self.last_step);
        self.turnarounds.sort_by(f64::total_cmp);
        Recorded {
            events: self.events,
            median_turnaround_seconds: self.turnarounds.get(self.turnarounds.len() / 2).copied().unwrap_or(0.0),
            denoise_seconds: self.last_step.duration_since(first).as_secs_f64(),
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

/// Whole microseconds; centuries are cut off.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
