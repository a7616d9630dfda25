//! Programs, an oracle and a cluster whose tensors are symbols: a row of the batch is a hash of how it was made.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_plan::{
    Command, ComponentId, DenoiseEngine, Event, Guidance, Inbox, InputId, InputKind, InputSpec, Instance, Lane, Layer,
    LayerId, Operand, Output, Ownership, Partition, PlacedPlan, Program, Rank, RoundStart, Schedule, Source, StepIndex,
    TimeShift, ValueId, ValueSpec, WarmUpBatch, Work,
};

/// Symbols of the rows of a tensor.
pub(crate) type Rows = Vec<u64>;

/// Any instant; only differences matter.
#[allow(clippy::disallowed_methods)]
pub(crate) fn origin() -> Instant {
    Instant::now()
}

fn symbol(parts: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

/// A small U: `depth` layers down, one in the middle, `depth` up with skip connections, an output; a shared time embedding.
pub(crate) fn u_program(depth: usize) -> Arc<Program> {
    let input = |kind, shape: Vec<u32>| InputSpec { kind, value: ValueSpec::f32(shape) };
    let inputs = vec![
        input(InputKind::Latents, vec![4, 2, 2]),
        input(InputKind::Timestep, vec![]),
        input(InputKind::Condition("encoder_hidden_states".into()), vec![3, 5]),
    ];
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |name: String, reads: Vec<Operand>, ownership| {
        let writes = ValueSpec::f32(vec![4, 2, 2]);
        layers.push(Layer { name, reads, writes, ownership, weights: vec![], flops: 100 });
        Operand::Value(ValueId(layers.len() as u16 - 1))
    };
    let time = add("time_embedding".into(), vec![Operand::Input(InputId(1))], Ownership::Shared);
    let mut hidden = add("conv_in".into(), vec![Operand::Input(InputId(0))], Ownership::Owned);
    let mut skips = vec![hidden];
    for index in 0..depth {
        hidden = add(format!("down_blocks.{index}"), vec![hidden, time, Operand::Input(InputId(2))], Ownership::Owned);
        skips.push(hidden);
    }
    hidden = add("mid_block".into(), vec![hidden, time], Ownership::Owned);
    for index in 0..=depth {
        let skip = skips.pop().unwrap();
        let joined = add(format!("concat.{index}"), vec![hidden, skip], Ownership::Shared);
        hidden = add(format!("up_blocks.{index}"), vec![joined, time], Ownership::Owned);
    }
    add("conv_out".into(), vec![hidden], Ownership::Owned);
    let output = ValueId(layers.len() as u16 - 1);
    Arc::new(Program::new(inputs, layers, output).unwrap())
}

/// What a case is made of; see [`Case::oracle`] and [`Case::cluster`].
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) program: Arc<Program>,
    pub(crate) partition: Partition,
    pub(crate) schedule: Schedule,
}

/// What a cluster did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) latents: Rows,
    /// Those that each step started from.
    pub(crate) history: Vec<Rows>,
    pub(crate) steps: Vec<StepIndex>,
    pub(crate) most_held: usize,
    pub(crate) transfers: usize,
}

/// Settings without the ceremony.
pub(crate) fn schedule(steps: u32, stride: u32, warm_up: u32) -> Schedule {
    Schedule {
        steps: NonZeroU32::new(steps).unwrap(),
        first: StepIndex(0),
        stride: NonZeroU32::new(stride).unwrap(),
        warm_up,
        time_shift: TimeShift::Off,
        guidance: Guidance::Batched,
        warm_up_batch: WarmUpBatch::Whole,
        round_start: RoundStart::AfterWarmUp,
    }
}

impl Case {
    fn rows(&self) -> usize {
        if self.schedule.guidance == Guidance::Off { 1 } else { 2 }
    }

    /// What step 0 starts from.
    pub(crate) fn noise(&self) -> Rows {
        vec![7; self.rows()]
    }

    /// The rules as the reference code follows them: one register per layer, rounds, one pass per component.
    pub(crate) fn oracle(&self) -> Rows {
        self.oracle_from(self.noise())
    }

    /// The same from the schedule's first step on.
    pub(crate) fn oracle_from(&self, mut latents: Rows) -> Rows {
        let (steps, stride) = (self.schedule.steps.get(), self.schedule.stride.get());
        let warm_up = self.schedule.warm_up.min(steps);
        let shift = u32::from(self.schedule.time_shift == TimeShift::On);
        let mut registers: HashMap<ValueId, Rows> = HashMap::new();
        let mut pending = Vec::new();
        let mut step = self.schedule.first.0;
        while step < steps {
            let repeats = self.schedule.round_start == RoundStart::OddSteps && stride == 2 && step == warm_up;
            if step < warm_up {
                registers = self.net(None, &latents, step, &HashMap::new());
                pending = registers[&self.program.output].clone();
                latents = advance(&latents, &pending, step);
                step += 1;
            } else if repeats && warm_up.is_multiple_of(2) && warm_up > 0 {
                latents = advance(&latents, &pending, step);
                step += 1;
            } else {
                let last = (step + stride - 1).min(steps - 1);
                let before = latents.clone();
                for served in step..=last {
                    let timestep = if served == 0 { 0 } else { served - shift };
                    let last_component = self.partition.last();
                    let made = self.net(Some(last_component), &before, timestep, &registers);
                    latents = advance(&latents, &made[&self.program.output], served);
                }
                let timestep = if last == 0 { 0 } else { last - shift };
                let passes = self.partition.component_ids().map(|id| self.net(Some(id), &before, timestep, &registers));
                let fresh: Vec<HashMap<ValueId, Rows>> = passes.collect();
                registers = fresh.into_iter().flatten().collect();
                step = last + 1;
            }
        }
        latents
    }

    /// One pass of a component (all of them if `None`), reading the registers at other components' layers; returns what its own layers made.
    fn net(
        &self,
        of: Option<ComponentId>,
        latents: &Rows,
        timestep: u32,
        registers: &HashMap<ValueId, Rows>,
    ) -> HashMap<ValueId, Rows> {
        let mut values: HashMap<ValueId, Rows> = HashMap::new();
        let mut made = HashMap::new();
        for (id, layer) in self.program.layers() {
            let owner = self.partition.owner(id);
            let foreign = owner.is_some() && of.is_some() && owner != of;
            if foreign {
                if let Some(register) = registers.get(&id.value()) {
                    values.insert(id.value(), register.clone());
                }
                continue;
            }
            let operand = |operand: &Operand| match operand {
                Operand::Input(InputId(0)) => Some(latents.clone()),
                Operand::Input(InputId(1)) => Some(vec![u64::from(timestep); self.rows()]),
                Operand::Input(input) => Some(condition(*input, self.rows())),
                Operand::Value(value) => values.get(value).cloned(),
            };
            let Some(operands) = layer.reads.iter().map(operand).collect::<Option<Vec<Rows>>>() else { continue };
            let written = compute(id, &operands);
            values.insert(id.value(), written.clone());
            if owner.is_some() {
                made.insert(id.value(), written);
            }
        }
        made
    }

    /// Runs the plan on engine and inboxes; `choose(n)` picks which of n pending things happens next.
    pub(crate) fn cluster(&self, placed: &PlacedPlan, choose: impl FnMut(usize) -> usize) -> Outcome {
        self.cluster_from(placed, self.noise(), choose)
    }

    /// The same from the plan's first step on.
    pub(crate) fn cluster_from(
        &self,
        placed: &PlacedPlan,
        latents: Rows,
        mut choose: impl FnMut(usize) -> usize,
    ) -> Outcome {
        let now = origin();
        let mut cluster = Cluster {
            case: self,
            engine: DenoiseEngine::new(placed.clone(), Duration::from_secs(1), now),
            inboxes: placed.ranks().map(|rank| Inbox::new(Arc::clone(&self.program), placed.part(rank))).collect(),
            predictions: HashMap::new(),
            pending: Vec::new(),
            outcome: Outcome { latents, history: vec![], steps: vec![], most_held: 0, transfers: 0 },
            finished: false,
            now,
        };
        cluster.tell(Event::Ready);
        loop {
            let ready: Vec<(usize, Work<Rows>)> =
                (0..cluster.inboxes.len()).filter_map(|rank| cluster.working(rank).map(|work| (rank, work))).collect();
            cluster.pending.extend(ready.into_iter().map(|(rank, work)| Pending::Compute(rank, Box::new(work))));
            if cluster.pending.is_empty() {
                break;
            }
            let index = choose(cluster.pending.len());
            let pending = cluster.pending.swap_remove(index);
            cluster.happen(pending);
        }
        assert!(cluster.finished, "the cluster stands still: {:?}", cluster.stuck());
        assert!(cluster.inboxes.iter().all(Inbox::is_finished), "runs are left over");
        assert_eq!(cluster.inboxes.iter().map(Inbox::held).sum::<usize>(), 0, "tensors are left over");
        cluster.outcome
    }
}

enum Pending {
    Compute(usize, Box<Work<Rows>>),
    Deliver(Instance, Rank, Rank, Rows),
    Latents(StepIndex, Rank, Rows),
    Prediction(StepIndex, Lane, Rank, Rows),
}

struct Cluster<'a> {
    case: &'a Case,
    engine: DenoiseEngine,
    inboxes: Vec<Inbox<Rows>>,
    predictions: HashMap<(StepIndex, Lane), Rows>,
    pending: Vec<Pending>,
    outcome: Outcome,
    finished: bool,
    now: Instant,
}

impl Cluster<'_> {
    /// A device computes one layer at a time: no second one while the first is pending.
    fn working(&mut self, rank: usize) -> Option<Work<Rows>> {
        let busy = self.pending.iter().any(|pending| matches!(pending, Pending::Compute(at, _) if *at == rank));
        if busy { None } else { self.inboxes[rank].poll_work() }
    }

    fn stuck(&self) -> Vec<String> {
        self.inboxes.iter().map(|inbox| format!("{:?}", inbox.waiting_for())).collect()
    }

    fn happen(&mut self, pending: Pending) {
        match pending {
            Pending::Compute(rank, work) => self.compute(rank, &work),
            Pending::Deliver(instance, from, to, rows) => {
                self.inboxes[to.index()].insert(instance, from, rows.clone()).unwrap();
                assert!(self.inboxes[to.index()].insert(instance, from, rows).is_err(), "a second copy was taken");
            }
            Pending::Latents(step, to, rows) => self.inboxes[to.index()].insert_latents(step, rows).unwrap(),
            Pending::Prediction(step, lane, from, rows) => {
                assert!(self.predictions.insert((step, lane), rows).is_none(), "a prediction was made twice");
                self.tell(Event::NoisePredictionArrived { step, lane, from });
            }
        }
        let held = self.inboxes.iter().map(Inbox::held).max().unwrap_or(0);
        self.outcome.most_held = self.outcome.most_held.max(held);
    }

    fn compute(&mut self, rank: usize, work: &Work<Rows>) {
        let rows = self.case.rows();
        let lane = work.run.lane.rows(rows);
        let operand = |source: &Source<Rows>| match source {
            Source::Condition(input) => condition(*input, rows)[lane.clone()].to_vec(),
            Source::Latents(latents) => latents[lane.clone()].to_vec(),
            Source::Timestep => vec![u64::from(work.timestep.0); lane.len()],
            Source::Value(pieces) => pieces.concat(),
        };
        let operands: Vec<Rows> = work.operands.iter().map(operand).collect();
        assert!(operands.iter().all(|operand| operand.len() == lane.len()), "an operand has other rows than its run");
        let from = Rank(rank as u16);
        match self.inboxes[rank].complete(work, compute(work.layer, &operands)) {
            Some(Output::HiddenState { instance, to, tensor }) => {
                self.outcome.transfers += to.len();
                self.pending.extend(to.into_iter().map(|to| Pending::Deliver(instance, from, to, tensor.clone())));
            }
            Some(Output::NoisePrediction { step, lane, tensor }) => {
                self.pending.push(Pending::Prediction(step, lane, from, tensor));
            }
            None => {}
        }
    }

    fn tell(&mut self, event: Event) {
        self.engine.handle_event(event, self.now);
        self.engine.validate().unwrap();
        while let Some(command) = self.engine.poll_command() {
            match command {
                Command::SendLatents { step, to } => {
                    let latents = self.outcome.latents.clone();
                    self.pending.extend(to.into_iter().map(|to| Pending::Latents(step, to, latents.clone())));
                }
                Command::TakeStep { step, prediction, lanes, .. } => {
                    let pieces: Vec<Rows> =
                        lanes.iter().map(|&lane| self.predictions[&(prediction, lane)].clone()).collect();
                    self.outcome.history.push(self.outcome.latents.clone());
                    self.outcome.latents = advance(&self.outcome.latents, &pieces.concat(), step.0);
                    self.outcome.steps.push(step);
                    self.engine.handle_event(Event::StepTaken { step }, self.now);
                }
                Command::Finish => self.finished = true,
                Command::Fail { failure } => panic!("{failure}"),
            }
        }
    }
}

fn condition(input: InputId, rows: usize) -> Rows {
    (0..rows).map(|row| symbol(("condition", input, row))).collect()
}

fn compute(layer: LayerId, operands: &[Rows]) -> Rows {
    let rows = operands.first().map_or(0, Vec::len);
    (0..rows).map(|row| symbol((layer, operands.iter().map(|operand| operand[row]).collect::<Vec<_>>()))).collect()
}

/// Guidance mixes the rows, so every row of the next latents depends on both halves.
fn advance(latents: &Rows, prediction: &Rows, step: u32) -> Rows {
    let next = symbol((latents, prediction, step));
    vec![next; latents.len()]
}
