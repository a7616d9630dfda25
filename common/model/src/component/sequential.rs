//! One evaluation of the denoiser, layer after layer in one place: the oracle that everything distributed is compared with.

use asyncdiff_plan::{InputKind, LayerId, Operand};
use candle_core::Tensor;

use super::Component;
use crate::ModelError;
use crate::kernels::{Computed, Value};

/// A condition by its name in the program's inputs.
pub type Condition<'a> = (&'a str, &'a Tensor);

/// Evaluates a component that has every layer of its program. A value is dropped when its last reader has run.
///
/// # Shapes
/// - `latents`: `[batch, channels, height, width]`, scaled as the noise scheduler asks
/// - `conditions`: each `[batch, ..]`
/// - returns: the noise prediction, `[batch, channels, height, width]`
pub fn evaluate(
    component: &Component,
    latents: &Tensor,
    timestep: f64,
    conditions: &[Condition<'_>],
) -> Result<Tensor, ModelError> {
    let (program, kernels) = (component.program(), component.kernels());
    // One row for all: the time embedding is computed once, and its bits do not depend on the batch.
    let timestep = kernels.value(&[1], &[timestep as f32])?;
    let latents = kernels.value_of(latents)?;
    let inputs = program.inputs.iter().map(|input| match &input.kind {
        InputKind::Latents => Ok(latents.clone()),
        InputKind::Timestep => Ok(timestep.clone()),
        InputKind::Condition(wanted) => kernels.value_of(find_condition(wanted, conditions)?),
    });
    let inputs: Vec<Value> = inputs.collect::<Result<_, ModelError>>()?;
    evaluate_values(component, &inputs)?.to_tensor(kernels.device())
}

/// [`evaluate`] of values that are on the component's device: what a benchmark times.
///
/// # Shapes
/// - `inputs`: one for each input of the program, `[batch, ..]`; the timestep may have one row for all
/// - returns: the noise prediction, `[batch, channels, height, width]`
pub fn evaluate_values(component: &Component, inputs: &[Value]) -> Result<Value, ModelError> {
    evaluate_step(component, inputs, &constant_values(component, inputs)?, &mut |_, _| ())
}

/// The values of the layers that are constant during a job, by layer; `None` for every other layer.
///
/// # Shapes
/// - `inputs`: as of [`evaluate_values`]
pub fn constant_values(component: &Component, inputs: &[Value]) -> Result<Vec<Option<Value>>, ModelError> {
    let program = component.program();
    let mut values: Vec<Option<Value>> = vec![None; program.layers.len()];
    for (layer, described) in program.layers().filter(|&(layer, _)| program.is_constant(layer)) {
        let operands = operands(&described.reads, inputs, &values).ok_or(ModelError::NoSuchLayer { layer })?;
        let value = component.run_layer(layer, &operands)?;
        values[layer.index()] = Some(value);
    }
    Ok(values)
}

/// What a job computes in each step: [`evaluate_values`] where the constants are known. `watch` is called after each node of a layer's graph.
///
/// # Shapes
/// - `inputs`: as of [`evaluate_values`]
/// - `constants`: what [`constant_values`] returns for the same conditions
/// - returns: the noise prediction, `[batch, channels, height, width]`
pub fn evaluate_step(
    component: &Component,
    inputs: &[Value],
    constants: &[Option<Value>],
    watch: &mut dyn FnMut(LayerId, Computed),
) -> Result<Value, ModelError> {
    let program = component.program();
    let mut last_reader = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        for &read in &described.reads {
            if let Operand::Value(value) = read {
                last_reader[value.index()] = Some(layer);
            }
        }
    }
    let mut values = constants.to_vec();
    for (layer, described) in program.layers().filter(|&(layer, _)| !program.is_constant(layer)) {
        let operands = operands(&described.reads, inputs, &values).ok_or(ModelError::NoSuchLayer { layer })?;
        let value = component.run_layer_watched(layer, &operands, None, &mut |computed| watch(layer, computed))?;
        if layer.value() == program.output {
            return Ok(value);
        }
        for &read in &described.reads {
            if let Operand::Value(read) = read
                && last_reader[read.index()] == Some(layer)
            {
                values[read.index()] = None;
            }
        }
        values[layer.index()] = Some(value);
    }
    Err(ModelError::NoSuchLayer { layer: program.output.layer() })
}

/// What a layer reads; `None` where something of it is not there.
fn operands<'a>(reads: &[Operand], inputs: &'a [Value], values: &'a [Option<Value>]) -> Option<Vec<&'a Value>> {
    let operand = |&operand: &Operand| match operand {
        Operand::Input(input) => inputs.get(input.index()),
        Operand::Value(value) => values.get(value.index())?.as_ref(),
    };
    reads.iter().map(operand).collect()
}

fn find_condition<'a>(wanted: &str, conditions: &[Condition<'a>]) -> Result<&'a Tensor, ModelError> {
    let found = conditions.iter().find(|(name, _)| *name == wanted).map(|&(_, tensor)| tensor);
    found.ok_or_else(|| ModelError::MissingCondition { name: wanted.to_owned() })
}
