//! Placement: which rank runs which slot, and so which instances travel from whom to whom.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::encoding;
use crate::{
    ComponentId, Encoding, Instance, Lane, LayerId, Plan, Program, Rank, Run, RunId, ScheduleError, Slot, StepIndex,
};

/// A plan with a rank for every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedPlan {
    /// The plan.
    pub plan: Plan,
    /// By slot.
    pub ranks: Vec<Rank>,
    /// One more than the highest rank of a slot. Ranks in between may have none: see [`Self::has_runs`].
    pub world_size: u16,
    /// What travels between ranks, by value and step.
    pub transfers: Vec<Transfer>,
    /// How hidden states travel after the warm-up: by who makes and who reads them.
    pub encodings: BTreeMap<(ComponentId, Rank), Encoding>,
}

/// One tensor that one rank sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Transfer {
    /// What travels.
    pub instance: Instance,
    /// Who makes it.
    pub from: Rank,
    /// Who reads it.
    pub to: Rank,
    /// How its elements travel.
    pub encoding: Encoding,
    /// On an edge with differences: the version that the edge carried before for the same rows. Differences are from it; a tensor as
    /// computed is taken after it. `None` for the first, and on every other edge.
    pub base: Option<StepIndex>,
}

/// The part of a placed plan that one rank needs to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankPlan {
    /// Whose part it is.
    pub rank: Rank,
    /// The component that makes noise predictions.
    pub last: ComponentId,
    /// How many steps a run can be ahead of the oldest unfinished one: see [`Plan::run_ahead`].
    pub run_ahead: u32,
    /// Its components with the layers that each owns.
    pub components: Vec<(ComponentId, Vec<LayerId>)>,
    /// Its runs, in the order in which it prefers them.
    pub runs: Vec<Run>,
    /// What it sends.
    pub sends: Vec<Transfer>,
    /// What it receives.
    pub receives: Vec<Transfer>,
}

/// Why ranks do not fit a plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlacementError {
    /// There is nobody to run anything.
    #[error("no worker to place the plan on\nhint: start one with `worker join LINE`")]
    NoRanks,
    /// One rank for each slot was expected.
    #[error("{found} ranks for {slots} slots")]
    SlotCount {
        /// Slots of the plan.
        slots: usize,
        /// Ranks given.
        found: usize,
    },
}

/// Why a placement has no counterpart from a step on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FromStepError {
    /// The places do not fit.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The settings contradict each other.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

impl PlacedPlan {
    /// Puts slot `i` of the plan on `ranks[i]`.
    pub fn new(plan: Plan, ranks: Vec<Rank>) -> Result<Self, PlacementError> {
        if ranks.len() != plan.slots.len() {
            return Err(PlacementError::SlotCount { slots: plan.slots.len(), found: ranks.len() });
        }
        let world_size = ranks.iter().map(|rank| rank.0 + 1).max().ok_or(PlacementError::NoRanks)?;
        let rank_of: BTreeMap<RunId, Rank> =
            plan.runs.iter().map(|run| (run.id, ranks[usize::from(run.slot)])).collect();
        let mut transfers = BTreeSet::new();
        for run in &plan.runs {
            let to = ranks[usize::from(run.slot)];
            for &instance in run.reads.iter().flat_map(|read| &read.from) {
                let writer = plan.partition.owner(instance.value.layer()).map(|owner| instance.written_by(owner));
                let from = writer.and_then(|writer| rank_of.get(&writer));
                let travels = |&from: &Rank| Transfer { instance, from, to, encoding: Encoding::Full, base: None };
                transfers.extend(from.filter(|&&from| from != to).map(travels));
            }
        }
        let transfers: Vec<Transfer> = transfers.into_iter().collect();
        let maker = |transfer: &Transfer| Some((plan.partition.owner(transfer.instance.value.layer())?, transfer.to));
        let encodings = transfers.iter().filter_map(maker).map(|edge| (edge, Encoding::Full)).collect();
        Ok(Self { plan, ranks, world_size, transfers, encodings })
    }

    /// The same plan with hidden states that travel as `encoding` says for each edge, warm-up steps as computed.
    #[must_use]
    pub fn encoded(mut self, encoding: impl Fn(ComponentId, Rank) -> Encoding) -> Self {
        for ((from, to), chosen) in &mut self.encodings {
            *chosen = encoding(*from, *to);
        }
        let (encodings, partition) = (&self.encodings, &self.plan.partition);
        let of_edge = |transfer: &Transfer| {
            let owner = partition.owner(transfer.instance.value.layer());
            owner.and_then(|owner| encodings.get(&(owner, transfer.to))).copied().unwrap_or_default()
        };
        encoding::encode(&mut self.transfers, self.plan.schedule.warm_up_steps(), of_edge);
        self
    }

    /// The same placement of the steps from `first` on, by a plan that begins there.
    pub fn from_step(&self, program: &Program, first: StepIndex) -> Result<Self, FromStepError> {
        let plan = Plan::new(program, &self.plan.partition, self.plan.schedule.from_step(first))?;
        // A plan of fewer steps may have no place for the further runs of a stride, which come last.
        let ranks = self.ranks.iter().copied().take(plan.slots.len()).collect();
        let placed = Self::new(plan, ranks)?;
        Ok(placed.encoded(|from, to| self.encodings.get(&(from, to)).copied().unwrap_or_default()))
    }

    /// Spreads a plan over devices: each slot to the device that would finish it first, the heaviest slots first, so that components share
    /// a device only when there are more slots than devices, and extra copies and the second lane get devices of their own when there are enough.
    ///
    /// - `component_costs`: seconds of each component on a device of speed 1.
    /// - `devices`: ranks with their relative speeds, in the order in which they are to be used.
    pub fn spread(plan: Plan, component_costs: &[f64], devices: &[(Rank, f64)]) -> Result<Self, PlacementError> {
        if devices.is_empty() {
            return Err(PlacementError::NoRanks);
        }
        let mut order: Vec<usize> = (0..plan.slots.len()).collect();
        let cost = |slot: &Slot| component_costs.get(slot.component.index()).copied().unwrap_or(0.0);
        let enough = plan.slots.len() <= devices.len();
        if enough {
            // Component i on device i: the partition was made for the devices in this order.
            let ranks = devices.iter().take(plan.slots.len()).map(|&(rank, _)| rank).collect();
            return Self::new(plan, ranks);
        }
        order.sort_by(|&a, &b| cost(&plan.slots[b]).total_cmp(&cost(&plan.slots[a])).then(a.cmp(&b)));
        let mut busy = vec![0.0; devices.len()];
        let mut ranks = vec![Rank(0); plan.slots.len()];
        for slot in order {
            let seconds = |device: usize| busy[device] + cost(&plan.slots[slot]) / devices[device].1;
            let chosen =
                (0..devices.len()).min_by(|&a, &b| seconds(a).total_cmp(&seconds(b)).then(a.cmp(&b))).unwrap_or(0);
            busy[chosen] = seconds(chosen);
            ranks[slot] = devices[chosen].0;
        }
        Self::new(plan, ranks)
    }

    /// The rank that a run is on.
    #[must_use]
    pub fn rank_of(&self, run: &Run) -> Rank {
        self.ranks[usize::from(run.slot)]
    }

    /// The part of one rank.
    #[must_use]
    pub fn part(&self, rank: Rank) -> RankPlan {
        let slots = self.plan.slots.iter().zip(&self.ranks).filter(|(_, placed)| **placed == rank);
        let components: BTreeSet<ComponentId> = slots.map(|(slot, _)| slot.component).collect();
        let partition = &self.plan.partition;
        RankPlan {
            rank,
            last: partition.last(),
            run_ahead: self.plan.run_ahead(),
            components: components.into_iter().map(|component| (component, partition.owned_by(component))).collect(),
            runs: self.plan.runs.iter().filter(|run| self.rank_of(run) == rank).cloned().collect(),
            sends: self.transfers.iter().filter(|transfer| transfer.from == rank).copied().collect(),
            receives: self.transfers.iter().filter(|transfer| transfer.to == rank).copied().collect(),
        }
    }

    /// The ranks in order.
    pub fn ranks(&self) -> impl Iterator<Item = Rank> + use<> {
        (0..self.world_size).map(Rank)
    }

    /// Whether a rank has something to do. The plan of others needs no rank that has not: not to load anything, not to stay.
    #[must_use]
    pub fn has_runs(&self, rank: Rank) -> bool {
        self.plan.runs.iter().any(|run| self.rank_of(run) == rank)
    }

    /// By step: the ranks that read its latents.
    pub(crate) fn latents_readers(&self) -> HashMap<StepIndex, Vec<Rank>> {
        let mut readers: HashMap<StepIndex, BTreeSet<Rank>> = HashMap::new();
        for run in &self.plan.runs {
            if let Some(step) = run.latents {
                readers.entry(step).or_default().insert(self.rank_of(run));
            }
        }
        readers.into_iter().map(|(step, ranks)| (step, ranks.into_iter().collect())).collect()
    }

    /// By step and lane of the run that makes it: the rank that makes the noise prediction.
    pub(crate) fn predictors(&self) -> HashMap<(StepIndex, Lane), Rank> {
        let predicting = self.plan.runs.iter().filter(|run| self.plan.predicts(run));
        predicting.map(|run| ((run.id.step, run.id.lane), self.rank_of(run))).collect()
    }
}
