//! Chooses components, partition, stride, warm-up and guidance split for what the user wants and what is there.

mod draft;
mod encoding;
mod reachable;
mod score;
mod switch;

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Costs, CutShape, Encoding, Guidance, LayerSeconds, Links, PartitionError, PlacedPlan, PlacementError, Prediction,
    Program, RoundStart, ScheduleError, StepIndex, TimeShift, predict,
};
use draft::Draft;
pub use switch::Switch;

/// With no more steps than this, hidden states change too much from step to step for one that is a round old to be of use.
const FEW_STEPS: u32 = 8;

/// Plans that are predicted in full, of those that are estimated to be the fastest: a prediction runs the whole plan on a simulated clock, and
/// estimates are right within some percent.
const PREDICTED: usize = 8;

/// Of these, plans that are predicted with every encoding that comes into question.
const ENCODED: usize = 2;

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
    /// How hidden states travel after the warm-up.
    pub encoding: Option<Encoding>,
    /// Workers that it may use at most; the others are left for other jobs.
    pub max_workers: Option<NonZeroU16>,
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
    /// The first of them that is to be made: 0, or where an interrupted job goes on.
    pub first: StepIndex,
    /// Whether the batch has two guidance halves.
    pub guidance_on: bool,
    /// Rows of the batch.
    pub rows: u32,
    /// What computing each layer takes.
    pub layer_seconds: LayerSeconds<'a>,
    /// What each layer takes of a device's memory.
    pub layer_memory: &'a [LayerMemory],
    /// By rank.
    pub devices: &'a [Device],
    /// What the links cost.
    pub links: &'a Links,
    /// Seconds between a noise prediction's arrival and the next latents' departure.
    pub turnaround_seconds: f64,
    /// Any instant: where the simulated clock of the prediction starts.
    pub now: Instant,
}

/// A device that can be given a rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Its speed, relative to the one that layers' costs are of.
    pub speed: f64,
    /// Memory that it may use, in bytes.
    pub memory_bytes: u64,
}

/// Memory of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerMemory {
    /// Bytes that its parameters take as they are held.
    pub resident_bytes: u64,
    /// Bytes that it takes while it is computed; layers of one device share them.
    pub working_bytes: u64,
}

/// The chosen plan.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The plan, placed.
    pub placed: PlacedPlan,
    /// What it is expected to take.
    pub prediction: Prediction,
    /// The plan in one line, without figures that differ from one measurement to the next: what a picture's file may say.
    pub outline: String,
    /// The same and why, in one line.
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

/// Chooses the plan that ends soonest among those that fit the wishes and the devices' memory; what is more exact may take a little longer.
pub fn choose(wishes: &Wishes, situation: &Situation<'_>) -> Result<Choice, PolicyError> {
    if situation.devices.is_empty() {
        return Err(PlacementError::NoRanks.into());
    }
    let exact = wishes.prefer == Prefer::Exact || (situation.steps.get() <= FEW_STEPS && wishes.is_open());
    let drafts = draft::drafts(wishes, situation, exact)?;
    let fitting = drafts.iter().filter(|draft| draft.fits(situation)).count();
    let speeds: Vec<f64> = situation.devices.iter().map(|device| device.speed).collect();
    let costs = Costs {
        layer_seconds: situation.layer_seconds,
        speeds: &speeds,
        links: situation.links,
        turnaround_seconds: situation.turnaround_seconds,
        rows: situation.rows,
    };
    // If nothing fits, the fastest is taken all the same: its workers say what they lack.
    let candidates = drafts.into_iter().filter(|draft| fitting == 0 || draft.fits(situation)).take(PREDICTED);
    let mut predicted: Vec<(Draft, Prediction)> = candidates
        .map(|draft| {
            let draft = draft.encoded(encoding::first(wishes));
            let prediction = predict(situation.program, &draft.placed, &costs, situation.now);
            (draft, prediction)
        })
        .collect();
    let score = |(draft, prediction): &(Draft, Prediction)| score::of(draft, prediction);
    predicted.sort_by(|one, other| score(one).total_cmp(&score(other)));
    predicted.truncate(ENCODED);
    let encoded = predicted.into_iter().map(|candidate| encoding::choose(wishes, situation, candidate, &costs));
    let best = encoded.min_by(|one, other| score(one).total_cmp(&score(other)));
    let (draft, prediction) = best.ok_or(PlacementError::NoRanks)?;
    let outline = outline(&draft);
    let why = if exact && wishes.prefer != Prefer::Exact {
        "; too few steps for hidden states that are a round old"
    } else {
        ""
    };
    let reason = format!("{outline}: {:.2}x of one worker predicted{why}", prediction.speed_up());
    let notes = notes(wishes, situation, draft.components());
    Ok(Choice { placed: draft.placed, prediction, outline, reason, notes })
}

impl Wishes {
    /// Whether the user left the kind of plan to the policy.
    fn is_open(&self) -> bool {
        let chosen = self.components.is_some() || self.cut.is_some() || self.stride.is_some() || self.warm_up.is_some();
        !chosen
    }
}

fn outline(draft: &Draft) -> String {
    let (schedule, components) = (&draft.placed.plan.schedule, draft.components());
    let split = match draft.shape {
        Some(CutShape::Contiguous) if components > 1 => " (contiguous)",
        Some(CutShape::Nested) => " (nested: its outer skip connections stay at home)",
        None => " (as given)",
        Some(CutShape::Contiguous) => "",
    };
    let parts = if components == 1 { "1 component".to_owned() } else { format!("{components} components{split}") };
    let lanes = if schedule.guidance == Guidance::Split { ", guidance halves in lanes of their own" } else { "" };
    let exact = if draft.is_exact() {
        "all steps exact".to_owned()
    } else {
        format!("stride {}, warm-up {}", schedule.stride, schedule.warm_up_steps().saturating_sub(schedule.first.0))
    };
    let from = if schedule.first.0 > 0 { format!(" from step {} on", schedule.first.0) } else { String::new() };
    format!("{parts}, {exact}{lanes}{from}")
}

fn notes(wishes: &Wishes, situation: &Situation<'_>, components: usize) -> Vec<String> {
    let mut notes = Vec::new();
    if wishes.split_guidance == Some(true) && !situation.guidance_on {
        notes.push("guidance is off (scale 1), so there are no halves to split".to_owned());
    }
    if wishes.prefer == Prefer::Exact && wishes.encoding.is_some_and(|encoding| encoding != Encoding::Full) {
        notes.push("exactness was asked for, so hidden states travel as computed".to_owned());
    }
    if components == 1 && wishes.time_shift == Some(TimeShift::On) {
        notes.push(
            "with one component the time shift only moves timesteps: the picture changes and nothing is gained"
                .to_owned(),
        );
    }
    notes
}
