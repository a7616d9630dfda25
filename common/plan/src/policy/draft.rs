//! Plans that fit the wishes, with an estimate of what each takes.

use std::num::NonZeroU32;

use super::reachable::reachable;
use super::{PolicyError, Prefer, Situation, Wishes};
use crate::{
    Cut, CutShape, Encoding, Guidance, LinkCost, Partition, PartitionError, PlacedPlan, Plan, Prices, Rank, RoundStart,
    Schedule, Split, StepIndex, TimeShift, WarmUpBatch, splits,
};

/// Numbers of components that are tried one by one; beyond it, only as many as there are workers.
const TRIED_COMPONENTS: usize = 16;

/// A plan that was not predicted yet.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) placed: PlacedPlan,
    /// `None`: the partition was given.
    pub(super) shape: Option<CutShape>,
    /// Seconds of the denoising loop, roughly.
    estimate: f64,
}

/// What drafts are made from.
struct Ground<'a> {
    wishes: &'a Wishes,
    situation: &'a Situation<'a>,
    /// The devices that may be used, with their speeds, in the order in which components are put on them.
    devices: Vec<(Rank, f64)>,
}

/// Every plan that comes into question, the fastest first. An error only if there is none.
pub(super) fn drafts(wishes: &Wishes, situation: &Situation<'_>, exact: bool) -> Result<Vec<Draft>, PolicyError> {
    let most = wishes.max_workers.map_or(usize::MAX, |most| usize::from(most.get()));
    let all = devices_in_order(situation);
    let (mut drafts, mut refused) = (Vec::new(), None);
    for mut devices in [reachable(&all, situation.links), Some(all)].into_iter().flatten() {
        devices.truncate(most);
        let ground = Ground { wishes, situation, devices };
        for guidance in guidances(&ground) {
            for components in component_counts(&ground, guidance)? {
                let schedule = schedule(wishes, situation, guidance, exact, components);
                match drafts_of(&ground, schedule, components) {
                    Ok(more) => drafts.extend(more),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
    }
    drafts.sort_by(|one: &Draft, other| one.estimate.total_cmp(&other.estimate));
    match refused {
        Some(error) if drafts.is_empty() => Err(error),
        _ => Ok(drafts),
    }
}

impl Draft {
    fn new(
        Ground { situation, devices, .. }: &Ground<'_>,
        (partition, shape): (&Partition, Option<CutShape>),
        schedule: Schedule,
        period_seconds: f64,
    ) -> Result<Self, PolicyError> {
        let plan = Plan::new(situation.program, partition, schedule)?;
        let slots = plan.slots.len();
        let component_costs = partition.component_costs(situation.layer_seconds.whole);
        let placed = PlacedPlan::spread(plan, &component_costs, devices)?;
        let slots_per_rank = slots.div_ceil(devices.len()) as f64;
        let warm_up = f64::from(schedule.warm_up_steps().saturating_sub(schedule.first.0));
        let lanes = schedule.lanes().len() as f64;
        let fastest = devices.iter().map(|&(_, speed)| speed).fold(f64::MIN_POSITIVE, f64::max);
        let exact_step = component_costs.iter().sum::<f64>() / fastest / lanes.min(devices.len() as f64);
        let rounds = schedule.rounds().len() as f64;
        let turnarounds = f64::from(schedule.remaining_steps()) * situation.turnaround_seconds;
        let estimate = warm_up * exact_step + rounds * period_seconds * slots_per_rank + turnarounds;
        Ok(Self { placed, shape, estimate })
    }

    /// With hidden states that travel so.
    pub(super) fn encoded(self, encoding: Encoding) -> Self {
        Self { placed: self.placed.encoded(|_, _| encoding), ..self }
    }

    pub(super) fn components(&self) -> usize {
        self.placed.plan.partition.components()
    }

    /// Whether no run reads what a round before made, and every step has a run for its own latents.
    pub(super) fn is_exact(&self) -> bool {
        let schedule = &self.placed.plan.schedule;
        let whole = self.components() == 1 && schedule.stride.get() == 1 && schedule.time_shift == TimeShift::Off;
        whole || schedule.warm_up >= schedule.steps.get()
    }

    /// Whether every device can hold its part.
    pub(super) fn fits(&self, situation: &Situation<'_>) -> bool {
        let fits = |rank: Rank| {
            let part = self.placed.part(rank);
            let owned: Vec<_> = part.components.iter().flat_map(|(_, layers)| layers.iter().copied()).collect();
            let layers = situation.program.with_shared(&owned);
            let memory = || layers.iter().map(|layer| &situation.layer_memory[layer.index()]);
            let resident: u64 = memory().map(|memory| memory.resident_bytes).sum();
            let working = memory().map(|memory| memory.working_bytes).max().unwrap_or(0);
            // What is held of a step, and as much of the step before.
            let parts = part.components.iter();
            let held: u64 = parts.map(|(_, owned)| situation.program.held_row_bytes(owned)).sum();
            let held = 2 * u64::from(situation.rows) * held;
            resident.saturating_add(working).saturating_add(held) <= situation.devices[rank.index()].memory_bytes
        };
        self.placed.ranks().all(fits)
    }
}

fn guidances(Ground { wishes, situation, devices }: &Ground<'_>) -> Vec<Guidance> {
    // Who names components or a cut means them for the whole batch.
    let open = devices.len() > 1 && wishes.components.is_none() && wishes.cut.is_none();
    match (situation.guidance_on, wishes.split_guidance) {
        (false, _) => vec![Guidance::Off],
        (true, Some(true)) => vec![Guidance::Split],
        (true, None) if open => vec![Guidance::Batched, Guidance::Split],
        (true, Some(false) | None) => vec![Guidance::Batched],
    }
}

fn component_counts(
    Ground { wishes, situation, devices }: &Ground<'_>,
    guidance: Guidance,
) -> Result<Vec<usize>, PolicyError> {
    let layers = situation.program.owned_layers().count();
    if let Some(Cut::Modules(lists)) = &wishes.cut {
        return match wishes.components {
            Some(components) if usize::from(components) != lists.len() => {
                Err(PolicyError::ComponentCount { components, lists: lists.len() })
            }
            _ => Ok(vec![lists.len()]),
        };
    }
    if let Some(components) = wishes.components {
        let wanted = usize::from(components);
        return if (1..=layers).contains(&wanted) {
            Ok(vec![wanted])
        } else {
            Err(PartitionError::ComponentCount { wanted, layers }.into())
        };
    }
    let lanes = if guidance == Guidance::Split { 2 } else { 1 };
    let most = (devices.len() / lanes).clamp(1, layers);
    Ok((1..=most).filter(|&count| count <= TRIED_COMPONENTS || count == most).collect())
}

fn schedule(
    wishes: &Wishes,
    situation: &Situation<'_>,
    guidance: Guidance,
    exact: bool,
    components: usize,
) -> Schedule {
    let steps = situation.steps.get();
    let (stride, warm_up) = match wishes.prefer {
        _ if exact => (1, steps),
        // One component reads nothing that is old, so it needs no warm-up (at stride 1 all its steps are exact anyway).
        Prefer::Balanced | Prefer::Exact => (1, steps.div_ceil(50)),
        Prefer::Quality => (1, steps.div_ceil(10)),
        Prefer::Speed => (2, steps.div_ceil(50)),
    };
    let micro_batches = guidance == Guidance::Batched && components > 1;
    let schedule = Schedule {
        steps: situation.steps,
        first: StepIndex(0),
        stride: wishes.stride.or(NonZeroU32::new(stride)).unwrap_or(NonZeroU32::MIN),
        warm_up: wishes.warm_up.unwrap_or(warm_up),
        time_shift: wishes.time_shift.unwrap_or(TimeShift::Off),
        guidance,
        warm_up_batch: if micro_batches { WarmUpBatch::Halves } else { WarmUpBatch::Whole },
        round_start: wishes.round_start.unwrap_or(RoundStart::AfterWarmUp),
    };
    schedule.from_step(situation.first)
}

fn drafts_of(ground: &Ground<'_>, schedule: Schedule, components: usize) -> Result<Vec<Draft>, PolicyError> {
    let Ground { wishes, situation, .. } = ground;
    let split = schedule.guidance == Guidance::Split;
    let layer_seconds = if split { situation.layer_seconds.half } else { situation.layer_seconds.whole };
    let speeds = component_speeds(ground, &schedule, components);
    if let Some(Cut::Modules(lists)) = &wishes.cut {
        let partition = Partition::from_modules(situation.program, lists)?;
        let costs = partition.component_costs(layer_seconds);
        let period = costs.iter().zip(&speeds).map(|(cost, speed)| cost / speed).fold(0.0, f64::max);
        return Ok(vec![Draft::new(ground, (&partition, None), schedule, period)?]);
    }
    let links = component_links(ground, &schedule, components);
    let rows = if split { situation.rows / 2 } else { situation.rows };
    let prices = Prices { layer_seconds, speeds: &speeds, links: &links, rows };
    let shapes: &[CutShape] = match &wishes.cut {
        Some(Cut::Shape(CutShape::Contiguous)) => &[CutShape::Contiguous],
        Some(Cut::Shape(CutShape::Nested)) => &[CutShape::Nested],
        _ if components == 1 => &[CutShape::Contiguous],
        _ => &[CutShape::Contiguous, CutShape::Nested],
    };
    let mut found: Vec<Split> = Vec::new();
    for &shape in shapes {
        found.extend(splits(situation.program, &prices, shape)?);
    }
    let draft =
        |split: Split| Draft::new(ground, (&split.partition, Some(split.shape)), schedule, split.period_seconds);
    found.into_iter().map(draft).collect()
}

/// The devices in the order in which components are put on them: first those that could hold the whole denoiser, the fastest first.
fn devices_in_order(situation: &Situation<'_>) -> Vec<(Rank, f64)> {
    let whole: u64 = situation.layer_memory.iter().map(|memory| memory.resident_bytes).sum();
    let mut order: Vec<usize> = (0..situation.devices.len()).collect();
    order.sort_by(|&one, &other| {
        let (one, other) = (&situation.devices[one], &situation.devices[other]);
        let roomy = (other.memory_bytes > whole).cmp(&(one.memory_bytes > whole));
        roomy.then(other.speed.total_cmp(&one.speed))
    });
    order.into_iter().map(|index| (Rank(index as u16), situation.devices[index].speed)).collect()
}

/// The speed that each component can count on: its rank's, and for the last one shared by the runs of a stride that have no rank of their own.
fn component_speeds(Ground { devices, .. }: &Ground<'_>, schedule: &Schedule, components: usize) -> Vec<f64> {
    let (lanes, ranks) = (schedule.lanes().len(), devices.len());
    let spare = ranks.saturating_sub(components * lanes) / lanes;
    let runs = if schedule.warm_up_steps() < schedule.steps.get() { schedule.stride.get() as usize } else { 1 };
    let sharing = runs.div_ceil(spare.min(runs - 1) + 1);
    let enough = ranks >= components * lanes;
    let speed = |component: usize| if enough { devices[component].1 } else { 1.0 };
    let mut by_component: Vec<f64> = (0..components).map(speed).collect();
    if let Some(last) = by_component.last_mut() {
        *last /= sharing as f64;
    }
    by_component
}

/// The slowest link that each component has with its neighbours; free where components share devices.
fn component_links(
    Ground { situation, devices, .. }: &Ground<'_>,
    schedule: &Schedule,
    components: usize,
) -> Vec<LinkCost> {
    if devices.len() < components * schedule.lanes().len() {
        return vec![LinkCost::FREE; components];
    }
    let rank = |component: usize| Some(devices[component % components].0);
    let slower =
        |one: LinkCost, other: LinkCost| if other.bytes_per_second < one.bytes_per_second { other } else { one };
    let of = |component: usize| {
        let before = situation.links.cost(rank(component + components - 1), rank(component));
        slower(before, situation.links.cost(rank(component), rank(component + 1)))
    };
    if components == 1 { vec![LinkCost::FREE] } else { (0..components).map(of).collect() }
}
