//! How a job goes at this device: durations per layer, bytes, and a trace if one was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use asyncdiff_common::wire::{TensorName, TraceEvent, TraceKind, Tracing};
use asyncdiff_model::kernels::Mark;
use asyncdiff_plan::{LayerId, RunId, Work};
use tokio::time::Instant;

use super::stopwatch::{DeviceClock, Lap};
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
    /// Of those, what went from GPU to GPU over NCCL.
    pub(crate) nccl_bytes_sent: u64,
    /// What happened when, if the job was traced.
    pub(crate) events: Vec<TraceEvent>,
}

/// Records while a job runs. Its memory is bounded by the plan: one number per layer run.
pub(super) struct Recorder {
    clock: Clock,
    trace: Tracing,
    durations: BTreeMap<LayerId, Vec<f64>>,
    busy: Duration,
    /// Of a device that computes in the background.
    device: Option<DeviceClock>,
    /// Layers that it was given and that were not looked at since, the oldest first.
    given: VecDeque<Given>,
    events: Vec<TraceEvent>,
}

struct Given {
    layer: LayerId,
    run: RunId,
    begin: Mark,
    end: Mark,
}

impl Recorder {
    pub(super) fn new(clock: Clock, trace: Tracing, device: Option<DeviceClock>) -> Self {
        let (durations, events) = (BTreeMap::new(), Vec::new());
        Self { clock, trace, durations, busy: Duration::ZERO, device, given: VecDeque::new(), events }
    }

    pub(super) fn computed<T>(&mut self, work: &Work<T>, lap: Lap) {
        match lap {
            Lap::Device { begin, end } => {
                self.given.push_back(Given { layer: work.layer, run: work.run, begin, end });
                self.look_at_given();
            }
            Lap::Host { started } => self.took(work.layer, work.run, started, started.elapsed()),
        }
    }

    /// Something was handed to be sent.
    pub(super) fn sent(&mut self, run: RunId, name: TensorName) {
        self.note(TraceKind::Sent(name), Some(run), Instant::now(), Duration::ZERO);
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

    /// `bytes`: of hidden states that were sent, and of them over NCCL.
    pub(super) fn finish(mut self, (hidden_state_bytes_sent, nccl_bytes_sent): (u64, u64)) -> JobStatistics {
        // What the device has not come past by now it does for nobody any more, and is not waited for.
        self.look_at_given();
        if self.events.len() == TRACE_EVENTS {
            tracing::warn!(events = TRACE_EVENTS, "the trace is full; what happened later is not in it");
        }
        let medians = self.durations.into_iter().map(|(layer, seconds)| (layer, median(seconds)));
        JobStatistics {
            layer_seconds: medians.collect(),
            busy_seconds: self.busy.as_secs_f64(),
            hidden_state_bytes_sent,
            nccl_bytes_sent,
            events: self.events,
        }
    }

    /// Whether the device has come past all that it was given, at the last look.
    pub(super) fn is_idle(&self) -> bool {
        self.given.is_empty()
    }

    /// Takes note of what the device has come past. Returns how many layers that were.
    pub(super) fn look_at_given(&mut self) -> usize {
        let before = self.given.len();
        while let Some(given) = self.given.pop_front_if(|given| given.end.is_past()) {
            let Given { layer, run, begin, end } = given;
            let began = self.device.as_ref().and_then(|device| device.instant(&begin));
            // A device that cannot say how long it took has failed at more than that.
            if let (Some(began), Ok(took)) = (began, end.since(&begin)) {
                self.took(layer, run, began, took);
            }
        }
        before - self.given.len()
    }

    fn took(&mut self, layer: LayerId, run: RunId, began: Instant, took: Duration) {
        self.busy += took;
        self.durations.entry(layer).or_default().push(took.as_secs_f64());
        self.note(TraceKind::Layer(layer), Some(run), began, took);
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
