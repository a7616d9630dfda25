//! Traces as Chrome and Perfetto read them (<https://ui.perfetto.dev>): a process per worker and one for the coordinator.
//!
//! ```text
//!   worker a  ── computing   [c0·3  [down_blocks.0.resnets.0][…]] [wait] [c0·4 …]     runs with their layers inside
//!             ── received    (v17·k3 from b)                                          from its departure to its arrival
//!   coordinator ─ loop       [step 3] [step 4]
//! ```

use std::collections::HashMap;

use asyncdiff_common::wire::{TensorName, TraceEvent, TraceKind};
use asyncdiff_plan::{Instance, Lane, RunId};
use serde_json::{Value, json};

use crate::job_spec::{JobTrace, TraceTrack};

/// The thread of a process's track on which it computes (or, for the coordinator, takes its steps).
const COMPUTING: u32 = 1;

/// The thread on which tensors are handed to links.
const SENDING: u32 = 2;

/// The trace as a file's content.
#[must_use]
pub fn chrome_trace(trace: &JobTrace) -> Vec<u8> {
    let writer = Writer { trace, origin: origin(trace), sent: sent(trace) };
    let mut events = Vec::new();
    for (process, track) in trace.tracks.iter().enumerate() {
        writer.add_track(process, track, &mut events);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string().into_bytes()
}

struct Writer<'a> {
    trace: &'a JobTrace,
    /// Microseconds since 1970 at the earliest event: times in the file count from there.
    origin: u64,
    /// Who sent which tensor when, by its label.
    sent: HashMap<String, (&'a str, u64)>,
}

fn origin(trace: &JobTrace) -> u64 {
    let starts = trace.tracks.iter().flat_map(|track| &track.events).map(|event| event.start_micros);
    starts.min().unwrap_or_default()
}

fn sent(trace: &JobTrace) -> HashMap<String, (&str, u64)> {
    let mut sent = HashMap::new();
    for track in &trace.tracks {
        for event in &track.events {
            if let TraceKind::Sent(name) = &event.kind {
                // One tensor may go to several readers at the same time; the first departure counts.
                sent.entry(tensor(name)).or_insert((track.name.as_str(), event.start_micros));
            }
        }
    }
    sent
}

impl Writer<'_> {
    fn add_track(&self, process: usize, track: &TraceTrack, events: &mut Vec<Value>) {
        let title = track.rank.map_or(track.name.clone(), |rank| format!("{rank} {}", track.name));
        let meta = |name: &str, thread: u32, value: Value| json!({ "ph": "M", "name": name, "pid": process, "tid": thread, "args": value });
        events.push(meta("process_name", COMPUTING, json!({ "name": title })));
        events.push(meta("process_sort_index", COMPUTING, json!({ "sort_index": process })));
        let computing = if track.rank.is_some() { "computing" } else { "denoising loop" };
        events.push(meta("thread_name", COMPUTING, json!({ "name": computing })));
        events.push(meta("thread_name", SENDING, json!({ "name": "sending" })));
        let mut ordered: Vec<&TraceEvent> = track.events.iter().collect();
        ordered.sort_by_key(|event| event.start_micros);
        self.add_runs(process, &ordered, events);
        for event in ordered {
            self.add_event(process, event, events);
        }
    }

    /// Bars around neighbouring layers of one run. A run that waits in between has several.
    fn add_runs(&self, process: usize, ordered: &[&TraceEvent], events: &mut Vec<Value>) {
        let mut open: Option<(RunId, u64, u64)> = None;
        let mut close = |open: Option<(RunId, u64, u64)>| {
            if let Some((run, start, end)) = open {
                let name = format!("{}·{}{}", run.component, run.step.0, lane(run.lane));
                events.push(self.slice(process, COMPUTING, (&name, "run"), (start, end - start)));
            }
        };
        for event in ordered {
            let end = event.start_micros + event.duration_micros;
            match (&event.kind, event.run, open) {
                (TraceKind::Layer(_), Some(run), Some((current, start, _))) if run == current => {
                    open = Some((run, start, end));
                }
                (TraceKind::Layer(_), Some(run), _) => {
                    close(open);
                    open = Some((run, event.start_micros, end));
                }
                (TraceKind::Waited, _, _) => {
                    close(open);
                    open = None;
                }
                _ => {}
            }
        }
        close(open);
    }

    fn add_event(&self, process: usize, event: &TraceEvent, events: &mut Vec<Value>) {
        let time = (event.start_micros, event.duration_micros);
        match &event.kind {
            TraceKind::Layer(layer) => {
                let name = self.trace.layers.get(layer.index()).cloned().unwrap_or_else(|| layer.to_string());
                events.push(self.slice(process, COMPUTING, (&name, "layer"), time));
            }
            TraceKind::Predicted(step, rows) => {
                let name = format!("noise prediction {}{}", step.0, lane(*rows));
                events.push(self.slice(process, COMPUTING, (&name, "prediction"), time));
            }
            TraceKind::Received(name) => self.add_transfer(process, name, event, events),
            TraceKind::SchedulerStep(step) => {
                let name = format!("step {}", step.0);
                events.push(self.slice(process, COMPUTING, (&name, "scheduler step"), time));
            }
            TraceKind::Sent(name) => events.push(self.slice(process, SENDING, (&tensor(name), "sent"), time)),
            TraceKind::Waited => events.push(self.slice(process, COMPUTING, ("wait", "wait"), time)),
        }
    }

    /// A bar from a tensor's departure to its arrival: asynchronous, since transfers overlap.
    fn add_transfer(&self, process: usize, name: &TensorName, event: &TraceEvent, events: &mut Vec<Value>) {
        let label = tensor(name);
        let (from, departed) = self.sent.get(&label).copied().unwrap_or((origin_of(name), event.start_micros));
        let arrived = event.start_micros + event.duration_micros;
        // Clocks of two machines may differ by more than the transfer took.
        let departed = departed.min(arrived);
        let id = format!("{process}/{label}");
        for (phase, time) in [("b", departed), ("e", arrived)] {
            events.push(json!({
                "ph": phase, "cat": "transfer", "id": id, "name": label, "pid": process, "tid": COMPUTING,
                "ts": time - self.origin.min(time), "args": { "from": from },
            }));
        }
    }

    fn slice(
        &self,
        process: usize,
        thread: u32,
        (name, category): (&str, &str),
        (start, duration): (u64, u64),
    ) -> Value {
        json!({
            "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread,
            "ts": start - self.origin.min(start), "dur": duration,
        })
    }
}

/// Who sends a tensor whose departure nobody recorded.
fn origin_of(name: &TensorName) -> &'static str {
    match name {
        TensorName::Condition(_) | TensorName::Latents(_) | TensorName::Weight(_) => "coordinator",
        TensorName::HiddenState(_)
        | TensorName::NoisePrediction(..)
        | TensorName::Probe(_)
        | TensorName::Reply { .. } => "a worker",
    }
}

fn tensor(name: &TensorName) -> String {
    match name {
        TensorName::Condition(name) => name.clone(),
        TensorName::HiddenState(Instance { value, step, lane: rows }) => format!("{value}·{}{}", step.0, lane(*rows)),
        TensorName::Latents(step) => format!("latents {}", step.0),
        TensorName::NoisePrediction(step, rows) => format!("noise prediction {}{}", step.0, lane(*rows)),
        TensorName::Probe(number) => format!("probe {number}"),
        TensorName::Reply { request, index } => format!("reply {request}.{index}"),
        TensorName::Weight(digest) => format!("weight {:02x}{:02x}{:02x}", digest[0], digest[1], digest[2]),
    }
}

fn lane(lane: Lane) -> &'static str {
    match lane {
        Lane::Conditional => "c",
        Lane::Unconditional => "u",
        Lane::Whole => "",
    }
}

#[cfg(test)]
mod tests {
    use asyncdiff_plan::{ComponentId, LayerId, Rank, StepIndex, ValueId};

    use super::*;

    const RUN: RunId = RunId { step: StepIndex(3), component: ComponentId(0), lane: Lane::Whole };

    fn event(kind: TraceKind, run: Option<RunId>, start: u64, duration_micros: u64) -> TraceEvent {
        TraceEvent { kind, run, start_micros: 1_000_000 + start, duration_micros }
    }

    fn trace() -> Value {
        let state = TensorName::HiddenState(Instance { value: ValueId(17), step: StepIndex(3), lane: Lane::Whole });
        let sender = vec![
            event(TraceKind::Layer(LayerId(0)), Some(RUN), 0, 10),
            event(TraceKind::Layer(LayerId(1)), Some(RUN), 12, 10),
            event(TraceKind::Sent(state.clone()), Some(RUN), 22, 1),
            event(TraceKind::Waited, None, 25, 5),
            event(TraceKind::Layer(LayerId(9)), Some(RUN), 30, 10),
        ];
        let receiver = vec![event(TraceKind::Received(state), None, 40, 0)];
        let coordinator = vec![event(TraceKind::SchedulerStep(StepIndex(3)), None, 50, 2)];
        let track =
            |name: &str, rank: Option<u16>, events| TraceTrack { name: name.into(), rank: rank.map(Rank), events };
        let trace = JobTrace {
            tracks: vec![
                track("coordinator", None, coordinator),
                track("a", Some(0), sender),
                track("b", Some(1), receiver),
            ],
            layers: vec!["conv_in".into(), "mid".into()],
        };
        serde_json::from_slice(&chrome_trace(&trace)).unwrap()
    }

    fn find<'a>(trace: &'a Value, key: &str, value: &str) -> Vec<&'a Value> {
        trace["traceEvents"].as_array().unwrap().iter().filter(|event| event[key] == value).collect()
    }

    #[test]
    fn layers_lie_inside_their_run_and_a_wait_divides_it() {
        let trace = trace();
        let runs = find(&trace, "cat", "run");
        assert_eq!(runs.len(), 2);
        assert_eq!((runs[0]["ts"].as_u64(), runs[0]["dur"].as_u64()), (Some(0), Some(22)));
        assert_eq!((runs[1]["ts"].as_u64(), runs[1]["dur"].as_u64()), (Some(30), Some(10)));
        let layers: Vec<_> = find(&trace, "cat", "layer").iter().map(|layer| layer["name"].clone()).collect();
        assert_eq!(layers, ["conv_in", "mid", "l9"]);
        assert_eq!(find(&trace, "name", "wait").len(), 1);
    }

    #[test]
    fn a_transfer_lasts_from_departure_to_arrival_at_its_reader() {
        let trace = trace();
        let transfer = find(&trace, "cat", "transfer");
        let ends: Vec<_> =
            transfer.iter().map(|end| (end["ph"].as_str(), end["ts"].as_u64(), end["pid"].as_u64())).collect();
        assert_eq!(ends, [(Some("b"), Some(22), Some(2)), (Some("e"), Some(40), Some(2))]);
        assert_eq!(transfer[0]["args"]["from"], "a");
    }

    #[test]
    fn every_process_has_a_named_track() {
        let trace = trace();
        let names: Vec<_> =
            find(&trace, "name", "process_name").iter().map(|name| name["args"]["name"].clone()).collect();
        assert_eq!(names, ["coordinator", "r0 a", "r1 b"]);
        assert_eq!(find(&trace, "cat", "scheduler step")[0]["name"], "step 3");
    }
}
