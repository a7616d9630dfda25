//! One evaluation of the denoiser, layer after layer in one place: the oracle that everything distributed is compared with.

use asyncdiff_plan::{InputKind, InputSpec, Operand};
use candle_core::Tensor;

use super::Component;
use crate::ModelError;

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
    let program = component.program();
    // One row for all: the time embedding is computed once, and its bits do not depend on the batch.
    let timestep = Tensor::from_vec(vec![timestep as f32], 1, latents.device())?;
    let inputs: Vec<&Tensor> = program
        .inputs
        .iter()
        .map(|input| find_input(input, latents, &timestep, conditions))
        .collect::<Result<_, _>>()?;

    let mut last_reader = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        for &read in &described.reads {
            if let Operand::Value(value) = read {
                last_reader[value.index()] = Some(layer);
            }
        }
    }
    let mut values: Vec<Option<Tensor>> = vec![None; program.layers.len()];
    for (layer, described) in program.layers() {
        let operands: Vec<&Tensor> = described
            .reads
            .iter()
            .map(|&operand| match operand {
                Operand::Input(input) => Some(inputs[input.index()]),
                Operand::Value(value) => values[value.index()].as_ref(),
            })
            .collect::<Option<_>>()
            .ok_or(ModelError::NoSuchLayer { layer })?;
        let value = component.run_layer(layer, &operands)?;
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

fn find_input<'a>(
    input: &InputSpec,
    latents: &'a Tensor,
    timestep: &'a Tensor,
    conditions: &[Condition<'a>],
) -> Result<&'a Tensor, ModelError> {
    match &input.kind {
        InputKind::Latents => Ok(latents),
        InputKind::Timestep => Ok(timestep),
        InputKind::Condition(wanted) => {
            let found = conditions.iter().find(|(name, _)| name == wanted).map(|&(_, tensor)| tensor);
            found.ok_or_else(|| ModelError::MissingCondition { name: wanted.clone() })
        }
    }
}
