//! A whole job in one thread: the engine, an inbox for each rank and its components, joined without links.
//!
//! The yardstick for every other way of running a plan: whatever carries the tensors, the bits must be these.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::Weights;
use asyncdiff_model::component::Component;
use asyncdiff_model::encodings::{Decoder, Encoded, Encoder, EncodingError};
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::{Kernels, Value};
use asyncdiff_plan::{
    ComponentId, DenoiseEngine, Event, Inbox, InboxError, InputKind, Instance, JobFailure, Lane, Output, Rank, Source,
    StepIndex, Work,
};
use candle_core::Tensor;
use thiserror::Error;

use super::{DenoiseLoop, Denoised, Effect, ProgressError, floats_from_bytes};

/// What the ranks compute with.
pub struct Parts<'a> {
    /// The denoiser.
    pub program: &'a DenoiserProgram,
    /// Its parameters.
    pub weights: &'a dyn Weights,
    /// How layers are computed, and where.
    pub kernels: &'a Kernels,
    /// The timestep of each step.
    pub timesteps: &'a [f64],
    /// By name, each `[rows, ..]`.
    pub conditions: &'a BTreeMap<String, Tensor>,
}

/// Why a job in one thread gave no latents.
#[derive(Debug, Error)]
pub enum InProcessError {
    /// A hidden state could not be encoded, or not decoded: a bug of the plan.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
    /// The plan sent a tensor to a rank that does not expect it: a bug of the plan.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The engine gave up.
    #[error(transparent)]
    Job(#[from] JobFailure),
    /// A layer or a weight failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A plan that does not begin at the step that the loop has come to.
    #[error(transparent)]
    Progress(#[from] ProgressError),
    /// Nothing can be computed although the job is not finished: a bug of the plan.
    #[error("nothing is left to compute and the job is not finished; {waiting}")]
    Stuck {
        /// What the ranks wait for.
        waiting: String,
    },
}

/// Runs a loop to its end. `replan` says after each number of steps taken by which other plan the rest is to be made, if by another.
pub fn run(
    mut denoise_loop: DenoiseLoop,
    parts: &Parts<'_>,
    mut replan: impl FnMut(StepIndex) -> Option<DenoiseEngine>,
) -> Result<Denoised, InProcessError> {
    let mut ranks = Ranks::load(&denoise_loop, parts)?;
    denoise_loop.handle_event(Event::Ready, Instant::now());
    loop {
        while let Some(effect) = denoise_loop.poll_effect(Instant::now()) {
            match effect {
                Effect::Failed(failure) => return Err(failure.into()),
                Effect::Finished => return Ok(denoise_loop.into_denoised()),
                Effect::SendLatents { step, to, payload } => ranks.insert_latents(step, &to, &payload)?,
                Effect::StepTaken(_) => {
                    if let Some(engine) = replan(denoise_loop.engine().steps_taken()) {
                        denoise_loop.replan(engine)?;
                        ranks = Ranks::load(&denoise_loop, parts)?;
                        denoise_loop.handle_event(Event::Ready, Instant::now());
                    }
                }
            }
        }
        let predictions = ranks.compute_one_each()?;
        for (step, lane, from, payload) in predictions {
            denoise_loop.handle_prediction((step, lane), from, &payload, Instant::now());
        }
    }
}

type MadePrediction = (StepIndex, Lane, Rank, Vec<u8>);

struct Ranks<'a> {
    parts: &'a Parts<'a>,
    /// Axes of the latents with the batch axis.
    latents_axes: Vec<usize>,
    rows: usize,
    inboxes: Vec<Inbox<Value>>,
    /// Hidden states take the way over bytes here too, since what they lose on it is part of the plan.
    encoders: Vec<Encoder>,
    decoders: Vec<Decoder>,
    /// One copy of each component serves all ranks that run it.
    components: BTreeMap<ComponentId, Component>,
}

impl<'a> Ranks<'a> {
    fn load(denoise_loop: &DenoiseLoop, parts: &'a Parts<'a>) -> Result<Self, InProcessError> {
        let placed = denoise_loop.engine().placed();
        let program = &parts.program.program;
        let mut components = BTreeMap::new();
        for component in placed.plan.partition.component_ids() {
            let owned = placed.plan.partition.owned_by(component);
            components.insert(component, Component::load(parts.program, &owned, parts.weights, parts.kernels)?);
        }
        let rows = denoise_loop.rows() as usize;
        let latents = program.inputs.iter().find(|input| input.kind == InputKind::Latents);
        let axes = latents.into_iter().flat_map(|input| &input.value.shape).map(|&axis| axis as usize);
        Ok(Self {
            parts,
            latents_axes: std::iter::once(rows).chain(axes).collect(),
            rows,
            encoders: placed.ranks().map(|rank| Encoder::new(&placed.part(rank), rows)).collect(),
            decoders: placed.ranks().map(|rank| Decoder::new(&placed.part(rank))).collect(),
            inboxes: placed.ranks().map(|rank| Inbox::new(Arc::clone(program), placed.part(rank))).collect(),
            components,
        })
    }

    fn insert_latents(&mut self, step: StepIndex, to: &[Rank], payload: &[u8]) -> Result<(), InProcessError> {
        let latents = self.parts.kernels.value(&self.latents_axes, &floats_from_bytes(payload))?;
        for rank in to {
            self.inboxes[rank.index()].insert_latents(step, latents.clone())?;
        }
        Ok(())
    }

    fn send(&mut self, instance: Instance, from: Rank, to: Rank, tensor: &Value) -> Result<(), InProcessError> {
        let (decoder, inbox) = (&mut self.decoders[to.index()], &mut self.inboxes[to.index()]);
        for Encoded { transfer, shape, payload } in self.encoders[from.index()].encode(instance, to, tensor.clone())? {
            for (instance, value) in decoder.decode(transfer.instance, shape, payload, self.parts.kernels)? {
                inbox.insert(instance, from, value)?;
            }
        }
        Ok(())
    }

    /// Computes at most one layer at each rank, so that no rank runs further ahead than it would on a device of its
    /// own.
    fn compute_one_each(&mut self) -> Result<Vec<MadePrediction>, InProcessError> {
        let mut predictions = Vec::new();
        let mut idle = true;
        for index in 0..self.inboxes.len() {
            let Some(work) = self.inboxes[index].poll_work() else { continue };
            idle = false;
            let value = self.compute(&work)?;
            let from = Rank(index as u16);
            match self.inboxes[index].complete(&work, value) {
                None => {}
                Some(Output::HiddenState { instance, to, tensor }) => {
                    for rank in to {
                        self.send(instance, from, rank, &tensor)?;
                    }
                }
                Some(Output::NoisePrediction { step, lane, tensor }) => {
                    let bytes = tensor.to_elements()?.iter().flat_map(|value| value.to_le_bytes()).collect();
                    predictions.push((step, lane, from, bytes));
                }
            }
        }
        if idle { Err(InProcessError::Stuck { waiting: self.waiting() }) } else { Ok(predictions) }
    }

    fn compute(&self, work: &Work<Value>) -> Result<Value, ModelError> {
        let operands: Vec<Value> =
            work.operands.iter().map(|source| self.operand(work, source)).collect::<Result<_, _>>()?;
        let operands: Vec<&Value> = operands.iter().collect();
        match self.components.get(&work.run.component) {
            Some(component) => component.run_layer(work.layer, &operands),
            None => Err(ModelError::NoSuchLayer { layer: work.layer }),
        }
    }

    fn operand(&self, work: &Work<Value>, source: &Source<Value>) -> Result<Value, ModelError> {
        match source {
            Source::Condition(input) => {
                let InputKind::Condition(name) = &self.parts.program.program.inputs[input.index()].kind else {
                    return Err(ModelError::NoSuchLayer { layer: work.layer });
                };
                let condition = self.parts.conditions.get(name);
                let condition = condition.ok_or_else(|| ModelError::MissingCondition { name: name.clone() })?;
                Ok(self.lane_rows(&self.parts.kernels.value_of(condition)?, work.run.lane))
            }
            Source::Latents(latents) => Ok(self.lane_rows(latents, work.run.lane)),
            Source::Timestep => {
                let timestep = self.parts.timesteps.get(work.timestep.index()).copied().unwrap_or_default();
                self.parts.kernels.value(&[1], &[timestep as f32])
            }
            Source::Value(pieces) => Value::concatenate(pieces),
        }
    }

    fn lane_rows(&self, value: &Value, lane: Lane) -> Value {
        value.narrow(lane.rows(self.rows))
    }

    fn waiting(&self) -> String {
        let waiting = self.inboxes.iter().enumerate().filter_map(|(rank, inbox)| {
            inbox.waiting_for().map(|(run, operand)| format!("r{rank} waits for {operand:?} of {run:?}"))
        });
        waiting.collect::<Vec<_>>().join(", ")
    }
}
