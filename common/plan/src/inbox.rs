//! A rank's side of a plan: which layer of which run can be computed now, and what becomes of what it wrote.
//!
//! Readiness is per layer: a run goes as far as the instances that it names have arrived; while it waits, its device serves other runs.
//! Tensors are a type parameter; the inbox only keeps them as long as the plan still reads them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use crate::{
    ComponentId, InputId, InputKind, Instance, Lane, LayerId, Operand, Ownership, Program, Rank, RankPlan, Run, RunId,
    StepIndex, ValueId,
};

/// What a rank holds of one job in one epoch, and how far its runs have come.
#[derive(Debug)]
pub struct Inbox<T> {
    program: Arc<Program>,
    plan: RankPlan,
    scripts: BTreeMap<ComponentId, Arc<[ScriptLine]>>,
    runs: Vec<RunState<T>>,
    /// Runs before this index are finished.
    finished: usize,
    held: HashMap<Instance, Held<T>>,
    latents: HashMap<StepIndex, Held<T>>,
    /// Values that depend on conditions alone: made by the first run that reads them and kept until the job ends.
    constants: HashMap<(LayerId, Lane), T>,
    /// By instance: where it goes when it is made here.
    sends: HashMap<Instance, Vec<Rank>>,
    /// How many runs of this rank read it.
    readers: HashMap<Instance, u32>,
    latents_readers: HashMap<StepIndex, u32>,
    /// Who sends it, for what comes from outside.
    senders: HashMap<Instance, Rank>,
}

/// A layer to compute now.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub struct Work<T> {
    /// The run that it belongs to.
    pub run: RunId,
    /// The layer.
    pub layer: LayerId,
    /// The step whose timestep conditions the run.
    pub timestep: StepIndex,
    /// The operands in the layer's order.
    pub operands: Vec<Source<T>>,
    /// The run's place in the plan; handed back in [`Inbox::complete`].
    index: usize,
}

/// Where an operand comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source<T> {
    /// A condition: constant during the job; take the run's lane of it.
    Condition(InputId),
    /// The step's latents; take the run's lane of them.
    Latents(T),
    /// The run's timestep.
    Timestep,
    /// A value; more than one piece is to be joined along the batch axis.
    Value(Vec<T>),
}

/// What becomes of what a layer wrote.
#[must_use]
#[derive(Clone, Debug, PartialEq)]
pub enum Output<T> {
    /// It goes to other ranks.
    HiddenState {
        /// Its name.
        instance: Instance,
        /// Who reads it.
        to: Vec<Rank>,
        /// The tensor.
        tensor: T,
    },
    /// It goes to the coordinator.
    NoisePrediction {
        /// The step that it serves.
        step: StepIndex,
        /// Its rows.
        lane: Lane,
        /// The tensor.
        tensor: T,
    },
}

/// What a peer sent that the plan does not expect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InboxError {
    /// No run of this rank reads it, or not from this sender.
    #[error("{instance:?} from {from} is not in this rank's plan")]
    Unexpected {
        /// What came.
        instance: Instance,
        /// Who sent it.
        from: Rank,
    },
    /// It came twice.
    #[error("{0:?} came twice")]
    Duplicate(Instance),
    /// Latents that no run of this rank reads, or that came twice.
    #[error("latents of step {0} were not expected, or came twice")]
    UnexpectedLatents(StepIndex),
}

#[derive(Debug)]
struct Held<T> {
    tensor: T,
    readers_left: u32,
}

/// One layer of a component, with what the run may forget after it.
#[derive(Debug)]
struct ScriptLine {
    layer: LayerId,
    /// It depends on conditions alone.
    constant: bool,
    /// Values of this component that no later line reads.
    forgets: Vec<ValueId>,
}

#[derive(Debug)]
struct RunState<T> {
    /// Next line of the component's script.
    cursor: usize,
    /// A layer was handed out and is not complete yet.
    busy: bool,
    local: HashMap<ValueId, T>,
}

impl<T: Clone> Inbox<T> {
    /// An inbox for one rank's part of a plan.
    #[must_use]
    pub fn new(program: Arc<Program>, plan: RankPlan) -> Self {
        let mut readers = HashMap::new();
        let mut latents_readers = HashMap::new();
        for run in &plan.runs {
            for &instance in run.reads.iter().flat_map(|read| &read.from) {
                *readers.entry(instance).or_insert(0) += 1;
            }
            if let Some(step) = run.latents {
                *latents_readers.entry(step).or_insert(0) += 1;
            }
        }
        let mut sends: HashMap<Instance, Vec<Rank>> = HashMap::new();
        for transfer in &plan.sends {
            sends.entry(transfer.instance).or_default().push(transfer.to);
        }
        let scripts: BTreeMap<_, _> =
            plan.components.iter().map(|(component, owned)| (*component, script(&program, owned))).collect();
        Self {
            scripts,
            runs: plan.runs.iter().map(|_| RunState { cursor: 0, busy: false, local: HashMap::new() }).collect(),
            finished: 0,
            held: HashMap::new(),
            latents: HashMap::new(),
            constants: HashMap::new(),
            sends,
            readers,
            latents_readers,
            senders: plan.receives.iter().map(|transfer| (transfer.instance, transfer.from)).collect(),
            program,
            plan,
        }
    }

    /// Takes a hidden state that a peer sent.
    pub fn insert(&mut self, instance: Instance, from: Rank, tensor: T) -> Result<(), InboxError> {
        if self.senders.get(&instance) != Some(&from) {
            return Err(InboxError::Unexpected { instance, from });
        }
        // Once taken it is expected no more, so a second copy is found out even after the first was read and dropped.
        match self.hold(instance, tensor) {
            true => Ok(()),
            false => Err(InboxError::Duplicate(instance)),
        }
    }

    /// Takes the latents of a step.
    pub fn insert_latents(&mut self, step: StepIndex, tensor: T) -> Result<(), InboxError> {
        let readers_left = self.latents_readers.remove(&step).ok_or(InboxError::UnexpectedLatents(step))?;
        self.latents.insert(step, Held { tensor, readers_left });
        Ok(())
    }

    /// The layer to compute next: of the runs whose next layer has all that it reads, the one that the plan prefers.
    pub fn poll_work(&mut self) -> Option<Work<T>> {
        let horizon = self.plan.runs.get(self.finished)?.id.step.0.saturating_add(self.plan.run_ahead);
        for index in self.finished..self.plan.runs.len() {
            if self.plan.runs[index].id.step.0 > horizon {
                return None;
            }
            self.take_constants(index);
            if let Some(work) = self.work_of(index) {
                self.runs[index].busy = true;
                return Some(work);
            }
        }
        None
    }

    /// Takes what a layer wrote and says where it goes.
    pub fn complete(&mut self, work: &Work<T>, tensor: T) -> Option<Output<T>> {
        let (run, value) = (&self.plan.runs[work.index], work.layer.value());
        let script = Arc::clone(&self.scripts[&run.id.component]);
        let state = &mut self.runs[work.index];
        let line = &script[state.cursor];
        debug_assert_eq!(line.layer, work.layer, "layers complete in the order in which they were handed out");
        if line.constant {
            self.constants.insert((work.layer, run.id.lane), tensor.clone());
        }
        state.advance(line, tensor.clone());
        state.busy = false;
        let ended = state.cursor == script.len();
        let id = run.id;
        if ended {
            self.end_run(work.index);
        }
        if self.program.layer(work.layer).ownership == Ownership::Shared {
            return None;
        }
        self.publish(Instance { value, step: id.step, lane: id.lane }, tensor)
    }

    /// The ranks that read what a layer is about to write.
    #[must_use]
    pub fn readers_elsewhere(&self, work: &Work<T>) -> &[Rank] {
        let instance = Instance { value: work.layer.value(), step: work.run.step, lane: work.run.lane };
        self.sends.get(&instance).map_or(&[], Vec::as_slice)
    }

    /// Whether every run is finished.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished == self.runs.len()
    }

    /// The oldest unfinished run and the first thing that its next layer lacks: what a stuck rank waits for.
    #[must_use]
    pub fn waiting_for(&self) -> Option<(RunId, Operand)> {
        let run = self.plan.runs.get(self.finished)?;
        let line = self.scripts[&run.id.component].get(self.runs[self.finished].cursor)?;
        let reads = &self.program.layer(line.layer).reads;
        let missing = reads.iter().find(|operand| self.source(run, &self.runs[self.finished], **operand).is_none());
        missing.map(|&operand| (run.id, operand))
    }

    /// Tensors that are kept for later runs: bounded by what the plan reads in a round.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len() + self.latents.len()
    }

    /// Goes past the layers whose values are there from an earlier run.
    fn take_constants(&mut self, index: usize) {
        let (run, state) = (&self.plan.runs[index], &mut self.runs[index]);
        let script = &self.scripts[&run.id.component];
        while let Some(line) = script.get(state.cursor).filter(|line| line.constant && !state.busy)
            && let Some(known) = self.constants.get(&(line.layer, run.id.lane))
        {
            state.advance(line, known.clone());
        }
    }

    fn work_of(&self, index: usize) -> Option<Work<T>> {
        let (run, state) = (&self.plan.runs[index], &self.runs[index]);
        let line = self.scripts[&run.id.component].get(state.cursor).filter(|_| !state.busy)?;
        let reads = self.program.layer(line.layer).reads.iter();
        let operands = reads.map(|&operand| self.source(run, state, operand)).collect::<Option<Vec<_>>>()?;
        Some(Work { run: run.id, layer: line.layer, timestep: run.timestep, operands, index })
    }

    fn source(&self, run: &Run, state: &RunState<T>, operand: Operand) -> Option<Source<T>> {
        match operand {
            Operand::Input(input) => match self.program.inputs[input.index()].kind {
                InputKind::Condition(_) => Some(Source::Condition(input)),
                InputKind::Latents => run
                    .latents
                    .and_then(|step| self.latents.get(&step))
                    .map(|held| Source::Latents(held.tensor.clone())),
                InputKind::Timestep => Some(Source::Timestep),
            },
            Operand::Value(value) => match state.local.get(&value) {
                Some(tensor) => Some(Source::Value(vec![tensor.clone()])),
                None => {
                    let read = run.reads.iter().find(|read| read.value == value)?;
                    let pieces = read.from.iter().map(|instance| Some(self.held.get(instance)?.tensor.clone()));
                    pieces.collect::<Option<Vec<T>>>().map(Source::Value)
                }
            },
        }
    }

    fn publish(&mut self, instance: Instance, tensor: T) -> Option<Output<T>> {
        if instance.value == self.program.output {
            return Some(Output::NoisePrediction { step: instance.step, lane: instance.lane, tensor });
        }
        self.hold(instance, tensor.clone());
        let to = self.sends.remove(&instance)?;
        Some(Output::HiddenState { instance, to, tensor })
    }

    /// Keeps an instance for the runs of this rank that read it; false if there are none (left).
    fn hold(&mut self, instance: Instance, tensor: T) -> bool {
        match self.readers.remove(&instance) {
            Some(readers_left) => {
                self.held.insert(instance, Held { tensor, readers_left });
                true
            }
            None => false,
        }
    }

    fn end_run(&mut self, index: usize) {
        self.runs[index].local = HashMap::new();
        let run = &self.plan.runs[index];
        for instance in run.reads.iter().flat_map(|read| &read.from) {
            release(&mut self.held, instance);
        }
        if let Some(step) = &run.latents {
            release(&mut self.latents, step);
        }
        while let Some(run) = self.plan.runs.get(self.finished)
            && self.runs[self.finished].cursor == self.scripts[&run.id.component].len()
        {
            self.finished += 1;
        }
    }
}

impl<T> RunState<T> {
    /// Takes what a line's layer wrote and goes to the next line.
    fn advance(&mut self, line: &ScriptLine, tensor: T) {
        self.local.insert(line.layer.value(), tensor);
        for forgotten in &line.forgets {
            self.local.remove(forgotten);
        }
        self.cursor += 1;
    }
}

fn release<K: std::hash::Hash + Eq, T>(held: &mut HashMap<K, Held<T>>, key: &K) {
    if let Some(entry) = held.get_mut(key) {
        entry.readers_left -= 1;
        if entry.readers_left == 0 {
            held.remove(key);
        }
    }
}

fn script(program: &Program, owned: &[LayerId]) -> Arc<[ScriptLine]> {
    let layers = program.with_shared(owned);
    let mut last_reader: HashMap<ValueId, usize> = HashMap::new();
    for (index, &layer) in layers.iter().enumerate() {
        last_reader.insert(layer.value(), index);
        for operand in &program.layer(layer).reads {
            if let Operand::Value(value) = operand
                && let Some(last) = last_reader.get_mut(value)
            {
                *last = index;
            }
        }
    }
    let forgets = |index| {
        let dead = last_reader.iter().filter(move |(_, last)| **last == index);
        dead.map(|(value, _)| *value).collect()
    };
    let line = |index, layer| ScriptLine { layer, constant: program.is_constant(layer), forgets: forgets(index) };
    layers.iter().enumerate().map(|(index, &layer)| line(index, layer)).collect()
}
