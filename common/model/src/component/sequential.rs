//! One evaluation of the denoiser, layer after layer in one place: the oracle that everything distributed is compared with.

use asyncdiff_plan::{InputKind, Operand};
use candle_core::Tensor;

use super::Component;
use crate::ModelError;
use crate::kernels::Value;

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
    let program = component.program();
    let mut last_reader = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        for &read in &described.reads {
            if let Operand::Value(value) = read {
                last_reader[value.index()] = Some(layer);
            }
        }
    }
    let mut values: Vec<Option<Value>> = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        let operand = |&operand: &Operand| match operand {
            Operand::Input(input) => inputs.get(input.index()),
            Operand::Value(value) => values[value.index()].as_ref(),
        };
        let operands: Option<Vec<&Value>> = described.reads.iter().map(operand).collect();
        let value = component.run_layer(layer, &operands.ok_or(ModelError::NoSuchLayer { layer })?)?;
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

fn find_condition<'a>(wanted: &str, conditions: &[Condition<'a>]) -> Result<&'a Tensor, ModelError> {
    let found = conditions.iter().find(|(name, _)| *name == wanted).map(|&(_, tensor)| tensor);
    found.ok_or_else(|| ModelError::MissingCondition { name: wanted.to_owned() })
}
