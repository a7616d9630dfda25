//! What layers cost on this device, measured without a checkpoint: the costs that a partition is balanced by.
//!
//! A layer's time depends on its operation and shapes, not on the numbers in its weights, so weights are made by formula.
//! One layer is held at a time and equal layers are measured once: little memory, and a fraction of a second for a small network.

use std::time::{Duration, Instant};

use asyncdiff_plan::{LayerId, Operand};

use super::Component;
use crate::ModelError;
use crate::checkpoint::FormulaWeights;
use crate::families::{DenoiserProgram, LayerOp};
use crate::formula;
use crate::kernels::{Kernels, Value};

/// Timed runs after one run to warm up. The shortest counts: whatever else runs on the machine can only lengthen one.
const TIMED_RUNS: usize = 3;

/// A layer that took longer than this is not timed again: noise is small against it, and measuring delays the start.
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Seed of the weights and operands; any would do.
const SEED: u64 = 1;

/// Measures how long each of `layers` takes for `rows` rows of the batch, in their order.
pub fn measure(
    program: &DenoiserProgram,
    kernels: &Kernels,
    rows: usize,
    layers: &[LayerId],
) -> Result<Vec<Duration>, ModelError> {
    let mut measured: Vec<(&LayerOp, Vec<Vec<usize>>, Duration)> = Vec::new();
    let mut durations = Vec::with_capacity(layers.len());
    for &layer in layers {
        let Some(op) = program.ops.get(layer.index()) else {
            return Err(ModelError::NoSuchLayer { layer });
        };
        let shapes = operand_shapes(program, layer, rows);
        let known = measured.iter().find(|(known, known_shapes, _)| *known == op && *known_shapes == shapes);
        let duration = match known {
            Some(&(_, _, duration)) => duration,
            None => {
                let duration = measure_layer(program, kernels, layer, &shapes)?;
                measured.push((op, shapes, duration));
                duration
            }
        };
        durations.push(duration);
    }
    Ok(durations)
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

fn measure_layer(
    program: &DenoiserProgram,
    kernels: &Kernels,
    layer: LayerId,
    shapes: &[Vec<usize>],
) -> Result<Duration, ModelError> {
    let component = Component::load(program, &[layer], &FormulaWeights { seed: SEED }, kernels)?;
    let operand = |shape: &Vec<usize>| kernels.value(shape, &formula::noise("measure", shape, SEED));
    let operands: Vec<Value> = shapes.iter().map(operand).collect::<Result<_, _>>()?;
    let operands: Vec<&Value> = operands.iter().collect();
    let time = || {
        let start = Instant::now();
        component.run_layer(layer, &operands)?;
        // A GPU computes in the background; on a CPU this does nothing.
        kernels.synchronize()?;
        Ok::<_, ModelError>(start.elapsed())
    };
    let first = time()?;
    if first > LONG_ENOUGH {
        return Ok(first);
    }
    let mut shortest = first;
    for _run in 0..TIMED_RUNS {
        shortest = shortest.min(time()?);
    }
    Ok(shortest)
}
