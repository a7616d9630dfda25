//! Loading and running a component; every operand is compared with the program before anything is computed.

use std::sync::Arc;

use asyncdiff_plan::{InputKind, LayerId, Operand, Program};
use candle_core::Tensor;

use super::operation::{self, Operation, Source};
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::families::DenoiserProgram;
use crate::kernels::Kernels;

/// A set of layers with their weights, on one device.
pub struct Component {
    program: Arc<Program>,
    layers: Vec<LayerId>,
    /// One place per layer of the program; `None` where the layer is not in this component.
    operations: Vec<Option<Box<dyn Operation>>>,
}

impl Component {
    /// Loads the weights of the layers `owned` and of the shared layers that they need, and no others.
    pub fn load(
        program: &DenoiserProgram,
        owned: &[LayerId],
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        if let Some(&layer) = owned.iter().find(|layer| layer.index() >= program.program.layers.len()) {
            return Err(ModelError::NoSuchLayer { layer });
        }
        let layers = program.program.with_shared(owned);
        let mut operations: Vec<_> = program.program.layers.iter().map(|_| None).collect();
        for &layer in &layers {
            let source = Source { weights, kernels, path: &program.program.layer(layer).name };
            operations[layer.index()] = Some(operation::load(program.op(layer), source)?);
        }
        Ok(Self { program: program.program.clone(), layers, operations })
    }

    /// The layers that can be run: the owned and the shared ones, in program order.
    #[must_use]
    pub fn layers(&self) -> &[LayerId] {
        &self.layers
    }

    /// The program that the layers belong to.
    #[must_use]
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.operations.iter().flatten().map(|operation| operation.resident_bytes()).sum()
    }

    /// Computes one layer.
    ///
    /// # Shapes
    /// - `operands`: in the order of the layer's reads, each `[rows, ..]` with the program's axes behind; `rows` is free but
    ///   the same for all. The timestep is `[rows]`. What has at most one axis per row (timestep, time embedding) may
    ///   have a single row that counts for all.
    /// - returns: `[rows, ..]` with the axes of the layer's value behind
    pub fn run_layer(&self, layer: LayerId, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        match self.operations.get(layer.index()) {
            Some(Some(operation)) => {
                self.check(layer, operands)?;
                operation.forward(operands)
            }
            _ => Err(ModelError::NoSuchLayer { layer }),
        }
    }

    fn check(&self, layer: LayerId, operands: &[&Tensor]) -> Result<(), ModelError> {
        let described = self.program.layer(layer);
        if operands.len() != described.reads.len() {
            return Err(ModelError::OperandCount {
                layer: described.name.clone(),
                expected: described.reads.len(),
                found: operands.len(),
            });
        }
        let rows = operands.iter().filter_map(|tensor| tensor.dims().first().copied()).max().unwrap_or_default();
        for (&operand, tensor) in described.reads.iter().zip(operands) {
            let axes = self.axes(operand);
            let fits = match tensor.dims() {
                [found_rows, found @ ..] => {
                    let rows_fit = *found_rows == rows || (*found_rows == 1 && axes.len() <= 1);
                    rows_fit && found.iter().map(|&axis| axis as u64).eq(axes.iter().map(|&axis| u64::from(axis)))
                }
                [] => false,
            };
            if !fits {
                let axes: String = axes.iter().map(|axis| format!(", {axis}")).collect();
                return Err(ModelError::ShapeMismatch {
                    layer: described.name.clone(),
                    operand: self.describe(operand),
                    expected: format!("[{rows}{axes}]"),
                    found: tensor.dims().to_vec(),
                });
            }
        }
        Ok(())
    }

    fn axes(&self, operand: Operand) -> &[u32] {
        match operand {
            Operand::Input(input) => &self.program.inputs[input.index()].value.shape,
            Operand::Value(value) => &self.program.layer(value.layer()).writes.shape,
        }
    }

    fn describe(&self, operand: Operand) -> String {
        match operand {
            Operand::Value(value) => format!("the value of {}", self.program.layer(value.layer()).name),
            Operand::Input(input) => match &self.program.inputs[input.index()].kind {
                InputKind::Condition(name) => name.clone(),
                InputKind::Latents => "latents".to_owned(),
                InputKind::Timestep => "timestep".to_owned(),
            },
        }
    }
}
