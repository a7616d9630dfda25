//! What layers cost on this device, measured without a checkpoint: the costs that a partition is balanced by.
//!
//! A layer's time depends on its operation and shapes, not on the numbers in its weights, so weights are made by formula, and equal layers
//! are measured once. It also depends on what a cache still holds: within a step, the other layers' weights have gone through it since a layer
//! ran last. So layers are timed in turns, in the program's order, as many together as a few of the largest caches hold: little memory, and a fraction of a
//! second for a small network.

use std::time::{Duration, Instant};

use asyncdiff_plan::{LayerId, Operand};

use super::{Component, layer_memory};
use crate::ModelError;
use crate::checkpoint::FormulaWeights;
use crate::families::{DenoiserProgram, LayerOp};
use crate::formula;
use crate::kernels::{Kernels, Value};

/// Rounds that are timed after one to warm up. The shortest time counts: whatever else runs on the machine can only lengthen one.
const TIMED_ROUNDS: usize = 3;

/// Layers that took longer than this together are not timed again: noise is small against it, and measuring delays the start.
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Bytes of weights that take turns: several times a core's share of the last cache.
const TURN_BYTES: u64 = 128 << 20;

/// Seed of the weights and operands; any would do.
const SEED: u64 = 1;

/// Measures how long each of `layers` takes for `rows` rows of the batch, in their order.
pub fn measure(
    program: &DenoiserProgram,
    kernels: &Kernels,
    rows: usize,
    layers: &[LayerId],
) -> Result<Vec<Duration>, ModelError> {
    let (subjects, subject_of) = subjects(program, rows, layers)?;
    let mut durations = Vec::with_capacity(subjects.len());
    let mut rest = &subjects[..];
    while !rest.is_empty() {
        let (group, behind) = rest.split_at(turns(program, kernels, rows, rest));
        durations.extend(measure_in_turns(program, kernels, group)?);
        rest = behind;
    }
    Ok(subject_of.into_iter().map(|subject| durations[subject]).collect())
}

/// A layer that stands for all that are equal to it.
struct Subject<'a> {
    layer: LayerId,
    op: &'a LayerOp,
    shapes: Vec<Vec<usize>>,
}

impl Loaded {
    /// How long the layer takes. A device that computes in the background is given it twice, and the second one is timed by its own clock: so it takes what it does in
    /// a job, where a layer is handed over while the one before is computed.
    fn time(&self, kernels: &Kernels) -> Result<Duration, ModelError> {
        let operands: Vec<&Value> = self.operands.iter().collect();
        let start = Instant::now();
        self.component.run_layer(self.layer, &operands)?;
        let Some(begin) = kernels.mark()? else { return Ok(start.elapsed()) };
        self.component.run_layer(self.layer, &operands)?;
        match kernels.mark()? {
            Some(end) => Ok(end.since(&begin)?),
            None => Ok(start.elapsed()),
        }
    }
}

/// The layers that differ, and by layer which of them it is.
fn subjects<'a>(
    program: &'a DenoiserProgram,
    rows: usize,
    layers: &[LayerId],
) -> Result<(Vec<Subject<'a>>, Vec<usize>), ModelError> {
    let mut subjects: Vec<Subject<'_>> = Vec::new();
    let mut subject_of = Vec::with_capacity(layers.len());
    for &layer in layers {
        let op = program.ops.get(layer.index()).ok_or(ModelError::NoSuchLayer { layer })?;
        let shapes = operand_shapes(program, layer, rows);
        let known = subjects.iter().position(|subject| subject.op == op && subject.shapes == shapes);
        subject_of.push(known.unwrap_or(subjects.len()));
        if known.is_none() {
            subjects.push(Subject { layer, op, shapes });
        }
    }
    Ok((subjects, subject_of))
}

/// How many of these take turns.
fn turns(program: &DenoiserProgram, kernels: &Kernels, rows: usize, subjects: &[Subject<'_>]) -> usize {
    let mut held = 0;
    let bytes = |subject: &Subject<'_>| layer_memory(program, kernels, rows, subject.layer).resident_bytes;
    let fitting = subjects.iter().take_while(|subject| {
        let fits = held < TURN_BYTES;
        held += bytes(subject);
        fits
    });
    fitting.count()
}

fn operand_shapes(program: &DenoiserProgram, layer: LayerId, rows: usize) -> Vec<Vec<usize>> {
    let spec = |&operand: &Operand| match operand {
        Operand::Input(input) => &program.program.inputs[input.index()].value,
        Operand::Value(value) => &program.program.layer(value.layer()).writes,
    };
    let reads = program.program.layer(layer).reads.iter();
    reads
        .map(|operand| std::iter::once(rows).chain(spec(operand).shape.iter().map(|&axis| axis as usize)).collect())
        .collect()
}

/// A layer with its weights and something to compute with.
struct Loaded {
    layer: LayerId,
    component: Component,
    operands: Vec<Value>,
    shortest: Duration,
}

fn measure_in_turns(
    program: &DenoiserProgram,
    kernels: &Kernels,
    group: &[Subject<'_>],
) -> Result<Vec<Duration>, ModelError> {
    let operand = |shape: &Vec<usize>| kernels.value(shape, &formula::noise("measure", shape, SEED));
    let load = |&Subject { layer, ref shapes, .. }: &Subject<'_>| {
        let component = Component::load(program, &[layer], &FormulaWeights { seed: SEED }, kernels)?;
        let operands: Vec<Value> = shapes.iter().map(operand).collect::<Result<_, _>>()?;
        Ok(Loaded { layer, component, operands, shortest: Duration::MAX })
    };
    let mut loaded: Vec<Loaded> = group.iter().map(load).collect::<Result<_, ModelError>>()?;
    for round in 0..=TIMED_ROUNDS {
        let began = Instant::now();
        for subject in &mut loaded {
            subject.shortest = subject.shortest.min(subject.time(kernels)?);
        }
        if round == 0 && began.elapsed() > LONG_ENOUGH {
            break;
        }
    }
    Ok(loaded.iter().map(|subject| subject.shortest).collect())
}
