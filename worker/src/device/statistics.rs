//! How a job goes at this device: durations per layer, bytes, and a trace if one was asked for.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncdiff_common::wire::{TensorName, TraceEvent, TraceKind, Tracing};
use asyncdiff_plan::{LayerId, RunId, Work};
use tokio::time::Instant;

use super::outlets::Sent;
use crate::clock::Clock;

/// Events that one job may record. A report of that many has 10 MiB, which fits a control message; 50 steps of the largest UNet on one
/// worker make a tenth of it. What comes later is dropped, and the log says so.
const TRACE_EVENTS: usize = 300_000;

/// A pause shorter than this is not drawn: it is the time that the device takes to look at its queue.
const SHORTEST_WAIT: Duration = Duration::from_micros(50);

/// How a job went.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobStatistics {
    /// Median seconds of each layer that ran.
    pub(crate) layer_seconds: Vec<(LayerId, f64)>,
    /// Seconds spent computing.
    pub(crate) busy_seconds: f64,
    /// Bytes of hidden states sent, headers and payloads.
    pub(crate) hidden_state_bytes_sent: u64,
    /// What happened when, if the job was traced.
    pub(crate) events: Vec<TraceEvent>,
}

/// Records while a job runs. Its memory is bounded by the plan: one number per layer run.
pub(super) struct Recorder {
    clock: Clock,
    trace: Tracing,
    durations: BTreeMap<LayerId, Vec<f64>>,
    busy: Duration,
    hidden_state_bytes_sent: u64,
    events: Vec<TraceEvent>,
}

impl Recorder {
    pub(super) fn new(clock: Clock, trace: Tracing) -> Self {
        let (durations, events) = (BTreeMap::new(), Vec::new());
        Self { clock, trace, durations, busy: Duration::ZERO, hidden_state_bytes_sent: 0, events }
    }

    pub(super) fn computed<T>(&mut self, work: &Work<T>, started: Instant) {
        let took = started.elapsed();
        self.busy += took;
        self.durations.entry(work.layer).or_default().push(took.as_secs_f64());
        self.note(TraceKind::Layer(work.layer), Some(work.run), started, took);
    }

    pub(super) fn sent(&mut self, run: RunId, sent: Sent) {
        self.hidden_state_bytes_sent += sent.hidden_state_bytes;
        self.note(TraceKind::Sent(sent.name), Some(run), Instant::now(), Duration::ZERO);
    }

    pub(super) fn received(&mut self, name: TensorName) {
        self.note(TraceKind::Received(name), None, Instant::now(), Duration::ZERO);
    }

    pub(super) fn waited(&mut self, since: Instant) {
        let took = since.elapsed();
        if took >= SHORTEST_WAIT {
            self.note(TraceKind::Waited, None, since, took);
        }
    }

    pub(super) fn finish(self) -> JobStatistics {
        if self.events.len() == TRACE_EVENTS {
            tracing::warn!(events = TRACE_EVENTS, "the trace is full; what happened later is not in it");
        }
        let medians = self.durations.into_iter().map(|(layer, seconds)| (layer, median(seconds)));
        JobStatistics {
            layer_seconds: medians.collect(),
            busy_seconds: self.busy.as_secs_f64(),
            hidden_state_bytes_sent: self.hidden_state_bytes_sent,
            events: self.events,
        }
    }

    fn note(&mut self, kind: TraceKind, run: Option<RunId>, start: Instant, took: Duration) {
        if self.trace == Tracing::On && self.events.len() < TRACE_EVENTS {
            let (start_micros, duration_micros) = (self.clock.micros(start), took.as_micros() as u64);
            self.events.push(TraceEvent { kind, run, start_micros, duration_micros });
        }
    }
}

/// The middle one; of an even number the lower middle.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    let middle = seconds.len().saturating_sub(1) / 2;
    seconds.get(middle).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
