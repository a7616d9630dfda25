//! Chooses components, partition, stride, warm-up and guidance split for what the user wants and what is there.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Costs, CutShape, Guidance, LinkCost, Partition, PartitionError, PlacedPlan, PlacementError, Plan, Prediction,
    Program, RoundStart, Schedule, ScheduleError, TimeShift, WarmUpBatch, predict,
};

/// A nested cut is one round deeper, so it must be this much faster than a contiguous one to be chosen unasked.
const NESTED_GAIN: f64 = 1.05;

/// With no more steps than this, hidden states change too much from step to step for one that is a round old to be of use.
const FEW_STEPS: u32 = 8;

/// What the user asked for; what is absent is the policy's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wishes {
    /// The goal.
    pub prefer: Prefer,
    /// Number of components.
    pub components: Option<u16>,
    /// The split, or its shape.
    pub cut: Option<Cut>,
    /// Steps served by one round.
    pub stride: Option<NonZeroU32>,
    /// Exact first steps.
    pub warm_up: Option<u32>,
    /// Whether runs after the warm-up use the timestep one step earlier.
    pub time_shift: Option<TimeShift>,
    /// Guidance halves on different workers.
    pub split_guidance: Option<bool>,
    /// Where rounds start.
    pub round_start: Option<RoundStart>,
}

/// What matters most to the user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prefer {
    /// Speed at little cost: stride 1, a short warm-up.
    #[default]
    Balanced,
    /// The picture that one device makes.
    Exact,
    /// Closer to the exact picture: stride 1, a longer warm-up.
    Quality,
    /// The fastest: stride 2.
    Speed,
}

/// A split that the user asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cut {
    /// Lists of module names.
    Modules(Vec<Vec<String>>),
    /// The best split of a shape.
    Shape(CutShape),
}

/// What is there to choose for.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The denoiser.
    pub program: &'a Arc<Program>,
    /// Evaluations of the denoiser.
    pub steps: NonZeroU32,
    /// Whether the batch has two guidance halves.
    pub guidance_on: bool,
    /// Rows of the batch.
    pub rows: u32,
    /// Seconds of each layer for the whole batch on a device of speed 1.
    pub layer_seconds: &'a [f64],
    /// Relative speed of each rank's device.
    pub speeds: &'a [f64],
    /// Every link between two processes.
    pub link: LinkCost,
    /// Seconds between a noise prediction's arrival and the next latents' departure.
    pub turnaround_seconds: f64,
    /// Any instant: where the simulated clock of the prediction starts.
    pub now: Instant,
}

/// The chosen plan.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The plan, placed.
    pub placed: PlacedPlan,
    /// What it is expected to take.
    pub prediction: Prediction,
    /// Why, in one line.
    pub reason: String,
    /// Wishes that have no effect here.
    pub notes: Vec<String>,
}

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// Component count and partition lists disagree.
    #[error(
        "{components} components were asked for and the partition has {lists} lists\nhint: leave out one of the two"
    )]
    ComponentCount {
        /// Asked for.
        components: u16,
        /// In the partition.
        lists: usize,
    },
    /// The split is impossible.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// There is nobody to run it.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The settings contradict each other.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
}

/// Chooses the plan that ends soonest among those that fit the wishes.
pub fn choose(wishes: &Wishes, situation: &Situation<'_>) -> Result<Choice, PolicyError> {
    if situation.speeds.is_empty() {
        return Err(PlacementError::NoRanks.into());
    }
    let exact = wishes.prefer == Prefer::Exact || (situation.steps.get() <= FEW_STEPS && wishes.is_open());
    let guidance = guidance(wishes, situation, exact);
    let components = components(wishes, situation, exact, guidance)?;
    let schedule = schedule(wishes, situation, guidance, exact, components);
    let mut best: Option<Candidate> = None;
    for shape in shapes(wishes, components) {
        let candidate = candidate(wishes, situation, schedule, components, shape)?;
        let gain = if shape == Some(CutShape::Nested) { NESTED_GAIN } else { 1.0 };
        if best.as_ref().is_none_or(|best| candidate.prediction.seconds * gain < best.prediction.seconds) {
            best = Some(candidate);
        }
    }
    let Candidate { placed, prediction, shape } = best.ok_or(PlacementError::NoRanks)?;
    let reason = reason(&schedule, &prediction, components, shape, exact && wishes.prefer != Prefer::Exact);
    Ok(Choice { placed, prediction, reason, notes: notes(wishes, situation, components) })
}

impl Wishes {
    /// Whether the user left the kind of plan to the policy.
    fn is_open(&self) -> bool {
        let chosen = self.components.is_some() || self.cut.is_some() || self.stride.is_some() || self.warm_up.is_some();
        !chosen
    }
}

struct Candidate {
    placed: PlacedPlan,
    prediction: Prediction,
    shape: Option<CutShape>,
}

fn guidance(wishes: &Wishes, situation: &Situation<'_>, exact: bool) -> Guidance {
    // Exact plans gain nothing from stale hidden states, so the halves are what there is to compute at the same time.
    let unasked = exact && situation.speeds.len() > 1 && wishes.components.is_none() && wishes.cut.is_none();
    match (situation.guidance_on, wishes.split_guidance.unwrap_or(unasked)) {
        (false, _) => Guidance::Off,
        (true, true) => Guidance::Split,
        (true, false) => Guidance::Batched,
    }
}

fn components(
    wishes: &Wishes,
    situation: &Situation<'_>,
    exact: bool,
    guidance: Guidance,
) -> Result<usize, PolicyError> {
    let layers = situation.program.owned_layers().count();
    if let Some(Cut::Modules(lists)) = &wishes.cut {
        return match wishes.components {
            Some(components) if usize::from(components) != lists.len() => {
                Err(PolicyError::ComponentCount { components, lists: lists.len() })
            }
            _ => Ok(lists.len()),
        };
    }
    if let Some(components) = wishes.components {
        let wanted = usize::from(components);
        return if (1..=layers).contains(&wanted) {
            Ok(wanted)
        } else {
            Err(PartitionError::ComponentCount { wanted, layers }.into())
        };
    }
    let lanes = if guidance == Guidance::Split { 2 } else { 1 };
    let open = if exact { 1 } else { (situation.speeds.len() / lanes).clamp(1, layers) };
    Ok(open)
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
    Schedule {
        steps: situation.steps,
        stride: wishes.stride.or(NonZeroU32::new(stride)).unwrap_or(NonZeroU32::MIN),
        warm_up: wishes.warm_up.unwrap_or(warm_up),
        time_shift: wishes.time_shift.unwrap_or(TimeShift::Off),
        guidance,
        warm_up_batch: if micro_batches { WarmUpBatch::Halves } else { WarmUpBatch::Whole },
        round_start: wishes.round_start.unwrap_or(RoundStart::AfterWarmUp),
    }
}

fn shapes(wishes: &Wishes, components: usize) -> Vec<Option<CutShape>> {
    match &wishes.cut {
        Some(Cut::Modules(_)) => vec![None],
        Some(Cut::Shape(shape)) => vec![Some(*shape)],
        None if components == 1 => vec![Some(CutShape::Contiguous)],
        None => vec![Some(CutShape::Contiguous), Some(CutShape::Nested)],
    }
}

fn candidate(
    wishes: &Wishes,
    situation: &Situation<'_>,
    schedule: Schedule,
    components: usize,
    shape: Option<CutShape>,
) -> Result<Candidate, PolicyError> {
    let partition = match (&wishes.cut, shape) {
        (Some(Cut::Modules(lists)), _) => Partition::from_modules(situation.program, lists)?,
        (_, shape) => {
            let speeds = component_speeds(situation.speeds, &schedule, components);
            let shape = shape.unwrap_or(CutShape::Contiguous);
            Partition::balanced(situation.program, situation.layer_seconds, &speeds, shape)?
        }
    };
    let plan = Plan::new(situation.program, &partition, schedule)?;
    let component_costs = partition.component_costs(situation.layer_seconds);
    let placed = PlacedPlan::spread(plan, &component_costs, situation.speeds)?;
    let costs = Costs {
        layer_seconds: situation.layer_seconds,
        speeds: situation.speeds,
        link: situation.link,
        turnaround_seconds: situation.turnaround_seconds,
        rows: situation.rows,
    };
    let prediction = predict(situation.program, &placed, &costs, situation.now);
    Ok(Candidate { placed, prediction, shape })
}

/// The speed that each component can count on: its rank's, and for the last one shared by the runs of a stride that have no rank of their own.
fn component_speeds(speeds: &[f64], schedule: &Schedule, components: usize) -> Vec<f64> {
    let lanes = schedule.lanes().len();
    let spare = speeds.len().saturating_sub(components * lanes) / lanes;
    let runs = if schedule.warm_up_steps() < schedule.steps.get() { schedule.stride.get() as usize } else { 1 };
    let sharing = runs.div_ceil(spare.min(runs - 1) + 1);
    let enough = speeds.len() >= components * lanes;
    let speed = |component: usize| if enough { speeds[component] } else { 1.0 };
    let mut by_component: Vec<f64> = (0..components).map(speed).collect();
    if let Some(last) = by_component.last_mut() {
        *last /= sharing as f64;
    }
    by_component
}

fn reason(
    schedule: &Schedule,
    prediction: &Prediction,
    components: usize,
    shape: Option<CutShape>,
    few_steps: bool,
) -> String {
    let split = match shape {
        Some(CutShape::Contiguous) if components > 1 => " (contiguous)",
        Some(CutShape::Nested) => " (nested: its outer skip connections stay at home)",
        None => " (as given)",
        Some(CutShape::Contiguous) => "",
    };
    let parts = if components == 1 { "1 component".to_owned() } else { format!("{components} components{split}") };
    let lanes = if schedule.guidance == Guidance::Split { ", guidance halves in lanes of their own" } else { "" };
    let why = if few_steps { "; too few steps for hidden states that are a round old" } else { "" };
    let exact = if schedule.warm_up >= schedule.steps.get() {
        "all steps exact".to_owned()
    } else {
        format!("stride {}, warm-up {}", schedule.stride, schedule.warm_up_steps())
    };
    format!("{parts}, {exact}{lanes}: {:.2}x of one worker predicted{why}", prediction.speed_up())
}

fn notes(wishes: &Wishes, situation: &Situation<'_>, components: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if wishes.split_guidance == Some(true) && !situation.guidance_on {
        notes.push("guidance is off (scale 1), so there are no halves to split".to_owned());
    }
    if components == 1 && wishes.time_shift == Some(TimeShift::On) {
        notes.push(
            "with one component the time shift only moves timesteps: the picture changes and nothing is gained"
                .to_owned(),
        );
    }
    notes
}
