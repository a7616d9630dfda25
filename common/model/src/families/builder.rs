//! Adds layers to a program one by one; what each writes, needs and costs follows from its operation.

use std::sync::Arc;

use asyncdiff_plan::{InputId, InputKind, InputSpec, Layer, Operand, Ownership, Program, ValueId, ValueSpec};

use super::denoiser::DenoiserProgram;
use super::op::LayerOp;
use crate::ModelError;

/// A program under construction.
#[derive(Default)]
pub(super) struct ProgramBuilder {
    inputs: Vec<InputSpec>,
    layers: Vec<Layer>,
    ops: Vec<LayerOp>,
}

impl ProgramBuilder {
    /// Adds a graph input with these axes after the batch axis.
    pub(super) fn input(&mut self, kind: InputKind, shape: Vec<u32>) -> Operand {
        self.inputs.push(InputSpec { kind, value: ValueSpec::f32(shape) });
        Operand::Input(InputId((self.inputs.len() - 1) as u16))
    }

    /// Adds a layer that one component owns.
    pub(super) fn owned(&mut self, name: String, op: LayerOp, reads: &[Operand]) -> Operand {
        self.layer(name, op, reads, Ownership::Owned)
    }

    /// Adds a layer that every reader computes itself.
    pub(super) fn shared(&mut self, name: String, op: LayerOp, reads: &[Operand]) -> Operand {
        self.layer(name, op, reads, Ownership::Shared)
    }

    /// The axes of an operand after the batch axis.
    pub(super) fn shape(&self, operand: Operand) -> &[u32] {
        match operand {
            Operand::Input(input) => &self.inputs[input.index()].value.shape,
            Operand::Value(value) => &self.layers[value.index()].writes.shape,
        }
    }

    /// The first axis of an operand after the batch axis.
    pub(super) fn channels(&self, operand: Operand) -> u32 {
        self.shape(operand).first().copied().unwrap_or(1)
    }

    /// The program whose output is `output`.
    pub(super) fn finish(self, output: Operand) -> Result<DenoiserProgram, ModelError> {
        let output = match output {
            Operand::Value(value) => value,
            // No layer has this id, so `Program::new` names the mistake.
            Operand::Input(_) => ValueId(u16::MAX),
        };
        let program = Program::new(self.inputs, self.layers, output)?;
        Ok(DenoiserProgram { program: Arc::new(program), ops: self.ops.into() })
    }

    fn layer(&mut self, name: String, op: LayerOp, reads: &[Operand], ownership: Ownership) -> Operand {
        let shapes: Vec<&[u32]> = reads.iter().map(|&operand| self.shape(operand)).collect();
        let account = op.account(&name, &shapes);
        let writes = ValueSpec::f32(op.writes(shapes.first().copied().unwrap_or_default()));
        let (weights, flops) = (account.weights, account.flops);
        self.layers.push(Layer { name, reads: reads.to_vec(), writes, ownership, weights, flops });
        self.ops.push(op);
        // Ids are 16 bits wide; `Program::new` refuses a program that would not fit.
        Operand::Value(ValueId((self.layers.len() - 1) as u16))
    }
}
