//! Plans: every component run of a job with the version of everything that it reads. Pure data, independent of who is fast.
//!
//! Semantics: AsyncDiff (arXiv 2406.06911), as intended by its reference code. Warm-up steps read values of their own step. After
//! the warm-up a round at step `first` reads latents `first` and, of other components, what the round before it wrote; the run for the
//! round's last step writes the registers, the others need only the last component.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    ComponentId, InputKind, Instance, Lane, Operand, Partition, Program, Round, Schedule, ScheduleError, StepIndex,
    ValueId,
};

/// All component runs of one job, or of what is left of it: see [`Schedule::from_step`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What it was made from.
    pub schedule: Schedule,
    /// The split.
    pub partition: Partition,
    /// Where runs can be placed independently of each other.
    pub slots: Vec<Slot>,
    /// The runs, round by round: what a run reads was written in the round before it or, in the warm-up, in its own step. Also the
    /// order in which a device prefers them.
    pub runs: Vec<Run>,
}

/// A place for runs: one component for one lane, or an extra copy of the last component for a stride's further noise predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot {
    /// The component.
    pub component: ComponentId,
    /// The lane of its runs after the warm-up.
    pub lane: Lane,
    /// 0 for the component itself; 1 to stride - 1 for the runs of the last component that write no registers.
    pub copy: u16,
}

/// Names a run: unique within a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId {
    /// The step whose noise prediction the run serves, and the version of what it writes.
    pub step: StepIndex,
    /// The component.
    pub component: ComponentId,
    /// The rows.
    pub lane: Lane,
}

/// One component run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its name.
    pub id: RunId,
    /// Its place: an index into [`Plan::slots`].
    pub slot: u16,
    /// The latents that it reads; `None` if its component does not read latents.
    pub latents: Option<StepIndex>,
    /// The step whose timestep conditions it.
    pub timestep: StepIndex,
    /// The values of other components that it reads, by value.
    pub reads: Vec<Read>,
}

/// Which instances make up a value that a run reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    /// The value.
    pub value: ValueId,
    /// One instance of the run's own lane, or one per half to be joined along the batch axis.
    pub from: Vec<Instance>,
}

impl Instance {
    /// The run that writes this instance, if `component` owns its value.
    #[must_use]
    pub fn written_by(self, component: ComponentId) -> RunId {
        RunId { step: self.step, component, lane: self.lane }
    }
}

impl Plan {
    /// Makes the plan for a program, a partition of it and settings.
    pub fn new(program: &Program, partition: &Partition, schedule: Schedule) -> Result<Self, ScheduleError> {
        schedule.check(partition.components())?;
        let mut builder = Builder::new(program, partition, schedule);
        for step in schedule.first.0..schedule.warm_up_steps() {
            builder.add_warm_up_step(StepIndex(step));
        }
        let mut before = schedule.warm_up_steps().checked_sub(1).map(StepIndex);
        for round in schedule.rounds() {
            builder.add_round(round, before);
            before = Some(round.last);
        }
        Ok(builder.finish())
    }

    /// The run whose noise prediction a step uses, by step; it is the step's own but for [`Schedule::repeats_a_prediction`].
    #[must_use]
    pub fn prediction_step(&self, step: StepIndex) -> StepIndex {
        let warm_up = self.schedule.warm_up_steps();
        if self.schedule.repeats_a_prediction() && step.0 == warm_up { StepIndex(warm_up - 1) } else { step }
    }

    /// The lanes in which the noise prediction of a step is made.
    #[must_use]
    pub fn prediction_lanes(&self, step: StepIndex) -> &'static [Lane] {
        if self.prediction_step(step).0 < self.schedule.warm_up_steps() {
            self.schedule.warm_up_lanes()
        } else {
            self.schedule.lanes()
        }
    }

    /// The first step of the round (or the warm-up step) that `step` belongs to: the version of the latents that its runs read.
    #[must_use]
    pub fn latents_step(&self, step: StepIndex) -> StepIndex {
        let first = self.schedule.warm_up_steps() + u32::from(self.schedule.repeats_a_prediction());
        if step.0 < first {
            return step;
        }
        StepIndex(first + (step.0 - first) / self.schedule.stride * self.schedule.stride.get())
    }

    /// How many steps one run can be ahead of another: each component reads what others made a round before, so a chain of them may run
    /// as many rounds ahead of the latents as there are components.
    #[must_use]
    pub fn run_ahead(&self) -> u32 {
        (self.partition.components() as u32 + 1).saturating_mul(self.schedule.stride.get())
    }

    /// Whether a run makes a noise prediction.
    #[must_use]
    pub fn predicts(&self, run: &Run) -> bool {
        run.id.component == self.partition.last()
    }
}

struct Builder<'a> {
    schedule: Schedule,
    partition: &'a Partition,
    slots: Vec<Slot>,
    runs: Vec<Run>,
    foreign: Vec<Vec<ValueId>>,
    reads_latents: Vec<bool>,
}

impl<'a> Builder<'a> {
    fn new(program: &'a Program, partition: &'a Partition, schedule: Schedule) -> Self {
        let reads_latents = |component| {
            let operands = partition.owned_by(component).into_iter().flat_map(|layer| program.resolved_reads(layer));
            operands.into_iter().any(|operand| match operand {
                Operand::Input(input) => program.inputs[input.index()].kind == InputKind::Latents,
                Operand::Value(_) => false,
            })
        };
        let mut slots = Vec::new();
        for &lane in schedule.lanes() {
            slots.extend(partition.component_ids().map(|component| Slot { component, lane, copy: 0 }));
        }
        let has_rounds = schedule.warm_up_steps() < schedule.steps.get();
        let copies = if has_rounds { schedule.stride.get().min(schedule.steps.get()) as u16 } else { 1 };
        for copy in 1..copies {
            let lanes = schedule.lanes().iter();
            slots.extend(lanes.map(|&lane| Slot { component: partition.last(), lane, copy }));
        }
        Self {
            schedule,
            partition,
            slots,
            runs: Vec::new(),
            foreign: partition.component_ids().map(|component| partition.foreign_reads(program, component)).collect(),
            reads_latents: partition.component_ids().map(reads_latents).collect(),
        }
    }

    fn add_warm_up_step(&mut self, step: StepIndex) {
        for &lane in self.schedule.warm_up_lanes() {
            for component in self.partition.component_ids() {
                let id = RunId { step, component, lane };
                self.add_run(id, 0, step, step, &|value| vec![Instance { value, step, lane }]);
            }
        }
    }

    /// `before`: the step that wrote the registers; `None` only for one component without warm-up, which reads none.
    fn add_round(&mut self, round: Round, before: Option<StepIndex>) {
        let last = self.partition.last();
        for &lane in self.schedule.lanes() {
            let registers = |value| before.map_or_else(Vec::new, |step| self.written(value, step, lane));
            let mut added: Vec<(RunId, u16)> = Vec::new();
            for step in round.first.0..round.last.0 {
                let copy = (step - round.first.0 + 1) as u16;
                added.push((RunId { step: StepIndex(step), component: last, lane }, copy));
            }
            // The noise prediction is what the coordinator waits for, so the component that makes it goes first where components share a device.
            for component in self.partition.component_ids().collect::<Vec<_>>().into_iter().rev() {
                added.push((RunId { step: round.last, component, lane }, 0));
            }
            let reads: HashMap<ValueId, Vec<Instance>> =
                self.foreign.iter().flatten().map(|&value| (value, registers(value))).collect();
            for (id, copy) in added {
                let timestep = self.schedule.conditioning_step(id.step);
                self.add_run(id, copy, round.first, timestep, &|value| reads[&value].clone());
            }
        }
    }

    /// The instances that hold version `step` of a value for the rows of `lane`.
    fn written(&self, value: ValueId, step: StepIndex, lane: Lane) -> Vec<Instance> {
        let warm_up = step.0 < self.schedule.warm_up_steps();
        match (lane, if warm_up { self.schedule.warm_up_lanes() } else { self.schedule.lanes() }) {
            (Lane::Whole, lanes) => lanes.iter().map(|&lane| Instance { value, step, lane }).collect(),
            (lane, _) => vec![Instance { value, step, lane }],
        }
    }

    fn add_run(
        &mut self,
        id: RunId,
        copy: u16,
        latents: StepIndex,
        timestep: StepIndex,
        instances: &dyn Fn(ValueId) -> Vec<Instance>,
    ) {
        let place = |slot: &Slot| {
            let same_lane = slot.lane == id.lane || slot.lane == Lane::Whole;
            slot.component == id.component && slot.copy == copy && same_lane
        };
        // Every run has a slot by construction: each component has one per lane, and the last one a copy per step of a stride.
        let slot = self.slots.iter().position(place).unwrap_or_default() as u16;
        let values = self.foreign[id.component.index()].iter();
        let reads = values.map(|&value| Read { value, from: instances(value) }).collect();
        let latents = self.reads_latents[id.component.index()].then_some(latents);
        self.runs.push(Run { id, slot, latents, timestep, reads });
    }

    /// Drops runs that no noise prediction depends on: in the last round only the last component's work matters.
    fn finish(self) -> Plan {
        let last = self.partition.last();
        let by_id: HashMap<RunId, &Run> = self.runs.iter().map(|run| (run.id, run)).collect();
        let predicting = self.runs.iter().filter(|run| run.id.component == last);
        let mut open: Vec<RunId> = predicting.map(|run| run.id).collect();
        let mut needed: BTreeSet<RunId> = open.iter().copied().collect();
        while let Some(id) = open.pop() {
            let reads = by_id.get(&id).into_iter().flat_map(|run| &run.reads);
            for instance in reads.flat_map(|read| &read.from) {
                let writer =
                    self.partition.owner(instance.value.layer()).map(|component| instance.written_by(component));
                open.extend(writer.filter(|&writer| needed.insert(writer)));
            }
        }
        let runs = self.runs.into_iter().filter(|run| needed.contains(&run.id)).collect();
        Plan { schedule: self.schedule, partition: self.partition.clone(), slots: self.slots, runs }
    }
}
