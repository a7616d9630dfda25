//! Predicts how long a placed plan takes, by running it: the engine and every rank's inbox on a simulated clock.
//!
//! Nothing is approximated but the costs: the order of layers is the one that the real devices follow.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{
    Command, ComponentId, DenoiseEngine, Encoding, Event, Inbox, InputKind, Instance, Lane, LayerId, Links, Output,
    PlacedPlan, Program, Rank, RunId, StepIndex, Work,
};

/// Bytes of a tensor's header on the wire; the exact number differs by a few bytes with the digits of job and step.
const HEADER_BYTES: u64 = 24;

/// Seconds that encoding takes per byte of a hidden state as computed, and again decoding, at most: the slowest
/// of `cargo bench -p asyncdiff-model --bench encodings` on one core of an AMD EPYC (Zen 5).
const CODEC_SECONDS_PER_BYTE: f64 = 0.25e-9;

/// Seconds of each layer of the program on a device of speed 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSeconds<'a> {
    /// For all rows of the batch.
    pub whole: &'a [f64],
    /// For one guidance half: more than half of the time where a device is not filled by it.
    pub half: &'a [f64],
}

/// What computing and sending cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs<'a> {
    /// What computing each layer takes.
    pub layer_seconds: LayerSeconds<'a>,
    /// Relative speed of each rank's device.
    pub speeds: &'a [f64],
    /// What the links cost.
    pub links: &'a Links,
    /// Seconds that the coordinator takes between a noise prediction's arrival and the next latents' departure.
    pub turnaround_seconds: f64,
    /// Rows of the batch.
    pub rows: u32,
}

/// What a plan is expected to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// Seconds of the denoising loop.
    pub seconds: f64,
    /// Seconds that the fastest rank alone would take.
    pub alone_seconds: f64,
    /// Bytes per step that travel between ranks, headers included.
    pub bytes_per_step: f64,
    /// The same by edge.
    pub edges: Vec<Edge>,
    /// The share of the time in which each rank computes.
    pub busy: Vec<f64>,
    /// What each rank computes when: a span per uninterrupted piece of a run, by time.
    pub timeline: Vec<RunSpan>,
}

/// What travels from one component to another.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Who makes it.
    pub from: ComponentId,
    /// Who receives it.
    pub to: Rank,
    /// How it travels after the warm-up.
    pub encoding: Encoding,
    /// Bytes per step, headers included.
    pub bytes_per_step: f64,
}

/// When a run computes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpan {
    /// Where.
    pub rank: Rank,
    /// Which.
    pub run: RunId,
    /// Seconds after the loop's start.
    pub start_seconds: f64,
    /// Seconds after the loop's start.
    pub end_seconds: f64,
}

impl LayerSeconds<'_> {
    /// Of a layer for the rows of a lane.
    #[must_use]
    pub fn of(&self, layer: LayerId, lane: Lane) -> f64 {
        match lane {
            Lane::Conditional | Lane::Unconditional => self.half[layer.index()],
            Lane::Whole => self.whole[layer.index()],
        }
    }
}

impl Prediction {
    /// How many times faster than one rank alone.
    #[must_use]
    pub fn speed_up(&self) -> f64 {
        self.alone_seconds / self.seconds
    }
}

/// Predicts a placed plan. `origin` is any instant: the simulated clock starts there.
#[must_use]
pub fn predict(program: &Arc<Program>, placed: &PlacedPlan, costs: &Costs<'_>, origin: Instant) -> Prediction {
    let mut simulation = Simulation::new(program, placed, costs, origin);
    simulation.run();
    let steps = f64::from(placed.plan.schedule.remaining_steps());
    let fastest = costs.speeds.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let seconds_of = |constant: bool| -> f64 {
        let layers = program.layers().filter(|&(layer, _)| program.is_constant(layer) == constant);
        layers.map(|(layer, _)| costs.layer_seconds.whole[layer.index()]).sum::<f64>() / fastest
    };
    let (once_seconds, step_seconds) = (seconds_of(true), seconds_of(false));
    let edges = edges(program, placed, costs.rows);
    let seconds = simulation.clock;
    Prediction {
        seconds,
        alone_seconds: once_seconds + steps * (step_seconds + costs.turnaround_seconds),
        // Not `sum`, which gives -0 for nothing.
        bytes_per_step: edges.iter().fold(0.0, |sum, edge| sum + edge.bytes_per_step),
        edges,
        busy: simulation.busy.iter().map(|busy| busy / seconds.max(f64::MIN_POSITIVE)).collect(),
        timeline: simulation.spans,
    }
}

/// Bytes of an instance in an encoding, with its header.
#[must_use]
pub fn instance_bytes(program: &Program, instance: Instance, rows: u32, encoding: Encoding) -> u64 {
    let rows = instance.lane.rows(rows as usize).len() as u64;
    encoding.bytes(program.layer(instance.value.layer()).writes.row_elements() * rows) + HEADER_BYTES
}

fn edges(program: &Program, placed: &PlacedPlan, rows: u32) -> Vec<Edge> {
    let steps = f64::from(placed.plan.schedule.remaining_steps()).max(1.0);
    let mut bytes: std::collections::BTreeMap<(ComponentId, Rank), u64> = std::collections::BTreeMap::new();
    for transfer in &placed.transfers {
        if let Some(from) = placed.plan.partition.owner(transfer.instance.value.layer()) {
            *bytes.entry((from, transfer.to)).or_insert(0) +=
                instance_bytes(program, transfer.instance, rows, transfer.encoding);
        }
    }
    let encoding = |edge| placed.encodings.get(&edge).copied().unwrap_or_default();
    let edge = |((from, to), bytes): (_, u64)| {
        let (encoding, bytes_per_step) = (encoding((from, to)), bytes as f64 / steps);
        Edge { from, to, encoding, bytes_per_step }
    };
    bytes.into_iter().map(edge).collect()
}

struct Simulation<'a> {
    program: &'a Arc<Program>,
    costs: &'a Costs<'a>,
    origin: Instant,
    clock: f64,
    engine: DenoiseEngine,
    inboxes: Vec<Inbox<()>>,
    /// How what travels does.
    encodings: HashMap<(Instance, Rank), Encoding>,
    /// What each rank computes now.
    working: Vec<Option<Work<()>>>,
    /// By sender and receiver: when the link is free again.
    links: HashMap<(Rank, Rank), f64>,
    due: BinaryHeap<Reverse<Due>>,
    counter: u64,
    busy: Vec<f64>,
    /// By rank: seconds that carrying bytes takes from its next layer.
    owed: Vec<f64>,
    spans: Vec<RunSpan>,
    /// By rank: its newest span.
    newest: Vec<Option<usize>>,
}

/// Something that happens at a time; the counter makes the order of equal times definite.
struct Due {
    time: f64,
    counter: u64,
    what: Happening,
}

enum Happening {
    HiddenState { instance: Instance, from: Rank, to: Rank },
    LatentsArrived { step: StepIndex, to: Rank },
    LayerDone { rank: Rank },
    PredictionArrived { step: StepIndex, lane: Lane, from: Rank },
    StepTaken { step: StepIndex },
}

impl<'a> Simulation<'a> {
    fn new(program: &'a Arc<Program>, placed: &PlacedPlan, costs: &'a Costs<'a>, origin: Instant) -> Self {
        let ranks: Vec<Rank> = placed.ranks().collect();
        let inboxes = ranks.iter().map(|&rank| Inbox::new(Arc::clone(program), placed.part(rank))).collect();
        Self {
            program,
            costs,
            origin,
            clock: 0.0,
            engine: DenoiseEngine::new(placed.clone(), Duration::MAX, origin),
            inboxes,
            encodings: placed.transfers.iter().map(|sent| ((sent.instance, sent.to), sent.encoding)).collect(),
            working: ranks.iter().map(|_| None).collect(),
            links: HashMap::new(),
            due: BinaryHeap::new(),
            counter: 0,
            busy: vec![0.0; ranks.len()],
            owed: vec![0.0; ranks.len()],
            spans: Vec::new(),
            newest: vec![None; ranks.len()],
        }
    }

    fn run(&mut self) {
        self.tell_engine(Event::Ready);
        for index in 0..self.inboxes.len() {
            self.start(Rank(index as u16));
        }
        while let Some(Reverse(due)) = self.due.pop() {
            self.clock = due.time;
            if let Some(rank) = self.handle(due.what) {
                self.start(rank);
            }
        }
    }

    /// Returns the rank that may have something to compute now. Nobody else has: what others can do did not change.
    fn handle(&mut self, what: Happening) -> Option<Rank> {
        match what {
            Happening::HiddenState { instance, from, to } => {
                let taken = self.inboxes[to.index()].insert(instance, from, ());
                debug_assert!(taken.is_ok(), "{taken:?}");
                Some(to)
            }
            Happening::LatentsArrived { step, to } => {
                self.owe((None, Some(to)), self.latents_bytes());
                let taken = self.inboxes[to.index()].insert_latents(step, ());
                debug_assert!(taken.is_ok(), "{taken:?}");
                Some(to)
            }
            Happening::LayerDone { rank } => {
                self.finish_layer(rank);
                Some(rank)
            }
            Happening::PredictionArrived { step, lane, from } => {
                self.tell_engine(Event::NoisePredictionArrived { step, lane, from });
                None
            }
            Happening::StepTaken { step } => {
                self.tell_engine(Event::StepTaken { step });
                None
            }
        }
    }

    fn tell_engine(&mut self, event: Event) {
        let now = self.origin + Duration::from_secs_f64(self.clock);
        self.engine.handle_event(event, now);
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::SendLatents { step, to } => {
                    for to in to {
                        let time = self.clock + self.carry_seconds((None, Some(to)), self.latents_bytes());
                        self.schedule(time, Happening::LatentsArrived { step, to });
                    }
                }
                Command::TakeStep { step, .. } => {
                    self.schedule(self.clock + self.costs.turnaround_seconds, Happening::StepTaken { step });
                }
                Command::Finish => {}
                Command::Fail { failure } => debug_assert!(false, "a simulated plan failed: {failure}"),
            }
        }
    }

    fn start(&mut self, rank: Rank) {
        let index = rank.index();
        if self.working[index].is_some() {
            return;
        }
        let Some(work) = self.inboxes[index].poll_work() else { return };
        let seconds = self.costs.layer_seconds.of(work.layer, work.run.lane) / self.costs.speeds[index];
        let end = self.clock + seconds + std::mem::take(&mut self.owed[index]);
        self.extend_span(rank, work.run, end);
        self.busy[index] += seconds;
        self.working[index] = Some(work);
        self.schedule(end, Happening::LayerDone { rank });
    }

    fn finish_layer(&mut self, rank: Rank) {
        let Some(work) = self.working[rank.index()].take() else { return };
        match self.inboxes[rank.index()].complete(&work, ()) {
            Some(Output::HiddenState { instance, to, .. }) => {
                for to in to {
                    self.send(instance, rank, to);
                }
            }
            Some(Output::NoisePrediction { step, lane, .. }) => {
                self.owe((Some(rank), None), self.prediction_bytes(lane));
                let time = self.clock + self.carry_seconds((Some(rank), None), self.prediction_bytes(lane));
                self.schedule(time, Happening::PredictionArrived { step, lane, from: rank });
            }
            None => {}
        }
    }

    fn send(&mut self, instance: Instance, from: Rank, to: Rank) {
        let encoding = self.encodings.get(&(instance, to)).copied().unwrap_or_default();
        let bytes = |encoding| instance_bytes(self.program, instance, self.costs.rows, encoding) as f64;
        let codec_seconds = match encoding {
            Encoding::Full => 0.0,
            _ => bytes(Encoding::Full) * CODEC_SECONDS_PER_BYTE,
        };
        let (bytes, cost) = (bytes(encoding), self.costs.links.cost(Some(from), Some(to)));
        for end in [from, to] {
            self.owed[end.index()] += cost.busy_seconds(bytes) + codec_seconds;
        }
        let free = self.links.entry((from, to)).or_insert(0.0);
        let sent = free.max(self.clock + codec_seconds) + bytes / cost.bytes_per_second;
        *free = sent;
        let time = sent + cost.latency_seconds + codec_seconds;
        self.schedule(time, Happening::HiddenState { instance, from, to });
    }

    /// What a tensor to or from the coordinator takes from the rank's next layer.
    fn owe(&mut self, (from, to): (Option<Rank>, Option<Rank>), bytes: u64) {
        let seconds = self.costs.links.cost(from, to).busy_seconds(bytes as f64);
        for rank in from.into_iter().chain(to) {
            self.owed[rank.index()] += seconds;
        }
    }

    /// How long a tensor to or from the coordinator is under way. There is at most one per rank and step, so that none waits for another.
    fn carry_seconds(&self, (from, to): (Option<Rank>, Option<Rank>), bytes: u64) -> f64 {
        let cost = self.costs.links.cost(from, to);
        cost.latency_seconds + bytes as f64 / cost.bytes_per_second
    }

    /// A rank gets the latents of the whole batch, also for one lane.
    fn latents_bytes(&self) -> u64 {
        let inputs = self.program.inputs.iter().filter(|input| input.kind == InputKind::Latents);
        inputs.map(|input| input.value.row_bytes()).sum::<u64>() * u64::from(self.costs.rows) + HEADER_BYTES
    }

    fn prediction_bytes(&self, lane: Lane) -> u64 {
        let output = &self.program.layer(self.program.output.layer()).writes;
        output.row_bytes() * lane.rows(self.costs.rows as usize).len() as u64 + HEADER_BYTES
    }

    fn schedule(&mut self, time: f64, what: Happening) {
        self.counter += 1;
        self.due.push(Reverse(Due { time, counter: self.counter, what }));
    }

    /// A layer that follows another of the same run without a pause belongs to the same span.
    fn extend_span(&mut self, rank: Rank, run: RunId, end_seconds: f64) {
        let newest = self.newest[rank.index()].map(|index| &mut self.spans[index]);
        match newest.filter(|span| span.run == run && span.end_seconds == self.clock) {
            Some(span) => span.end_seconds = end_seconds,
            None => {
                self.newest[rank.index()] = Some(self.spans.len());
                self.spans.push(RunSpan { rank, run, start_seconds: self.clock, end_seconds });
            }
        }
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.time.total_cmp(&other.time).then(self.counter.cmp(&other.counter))
    }
}
