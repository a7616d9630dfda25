//! Loading and running a component; every operand is compared with the program before anything is computed.

use std::sync::Arc;

use asyncdiff_plan::{InputKind, LayerId, Operand, Program};

use super::layer_graph::layer_graph;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::families::DenoiserProgram;
use crate::graph::Extent;
use crate::kernels::{Computed, Kernels, LentMemory, Prepared, Value};

/// A set of layers with their weights, on one device.
pub struct Component {
    program: Arc<Program>,
    kernels: Kernels,
    layers: Vec<LayerId>,
    /// One place per layer of the program; `None` where the layer is not in this component.
    prepared: Vec<Option<Prepared>>,
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
        let mut prepared: Vec<_> = program.program.layers.iter().map(|_| None).collect();
        for &layer in &layers {
            let graph =
                layer_graph(program.op(layer), &program.program.layer(layer).name, &operand_extents(program, layer));
            prepared[layer.index()] = Some(kernels.prepare(graph, weights)?);
        }
        Ok(Self { program: program.program.clone(), kernels: kernels.clone(), layers, prepared })
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

    /// The kernels that compute the layers; operands are values of theirs.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.prepared.iter().flatten().map(Prepared::resident_bytes).sum()
    }

    /// Computes one layer.
    ///
    /// # Shapes
    /// - `operands`: in the order of the layer's reads, each `[rows, ..]` with the program's axes behind; `rows` is free but
    ///   the same for all. The timestep is `[rows]`. What has at most one axis per row (timestep, time embedding) may
    ///   have a single row that counts for all.
    /// - returns: `[rows, ..]` with the axes of the layer's value behind
    pub fn run_layer(&self, layer: LayerId, operands: &[&Value]) -> Result<Value, ModelError> {
        self.run_layer_watched(layer, operands, None, &mut |_| ())
    }

    /// [`Self::run_layer`], and what it writes is in lent memory, if that has its length and the device can write it.
    pub fn run_layer_into(
        &self,
        layer: LayerId,
        operands: &[&Value],
        lent: Option<LentMemory>,
    ) -> Result<Value, ModelError> {
        self.run_layer_watched(layer, operands, lent, &mut |_| ())
    }

    /// [`Self::run_layer`], and `watch` is called after each node of its graph.
    pub(super) fn run_layer_watched(
        &self,
        layer: LayerId,
        operands: &[&Value],
        lent: Option<LentMemory>,
        watch: &mut dyn FnMut(Computed),
    ) -> Result<Value, ModelError> {
        let prepared = self.prepared(layer).ok_or(ModelError::NoSuchLayer { layer })?;
        self.check(layer, operands)?;
        prepared.run_watched(operands, lent, watch)
    }

    /// A layer's graph with its kernels; `None` where the layer is not in this component.
    #[must_use]
    pub fn prepared(&self, layer: LayerId) -> Option<&Prepared> {
        self.prepared.get(layer.index())?.as_ref()
    }

    fn check(&self, layer: LayerId, operands: &[&Value]) -> Result<(), ModelError> {
        let described = self.program.layer(layer);
        if operands.len() != described.reads.len() {
            return Err(ModelError::OperandCount {
                layer: described.name.clone(),
                expected: described.reads.len(),
                found: operands.len(),
            });
        }
        let rows = operands.iter().map(|value| value.rows()).max().unwrap_or_default();
        for (&operand, value) in described.reads.iter().zip(operands) {
            let axes = self.axes(operand);
            let rows_fit = value.rows() == rows || (value.rows() == 1 && axes.len() <= 1);
            let axes_fit = value.axes().iter().map(|&axis| axis as u64).eq(axes.iter().map(|&axis| u64::from(axis)));
            if !rows_fit || !axes_fit {
                let axes: String = axes.iter().map(|axis| format!(", {axis}")).collect();
                return Err(ModelError::ShapeMismatch {
                    layer: described.name.clone(),
                    operand: self.describe(operand),
                    expected: format!("[{rows}{axes}]"),
                    found: value.shape(),
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

/// The shapes of a layer's operands.
pub(super) fn operand_extents(program: &DenoiserProgram, layer: LayerId) -> Vec<Extent> {
    let program = &program.program;
    let axes = |&operand: &Operand| match operand {
        Operand::Input(input) => &program.inputs[input.index()].value.shape,
        Operand::Value(value) => &program.layer(value.layer()).writes.shape,
    };
    let extent = |axes: &Vec<u32>| {
        let axes: Vec<usize> = axes.iter().map(|&axis| axis as usize).collect();
        // No family makes a value of more than three axes; an empty operand is refused when the layer runs.
        Extent::from_axes(&axes).unwrap_or(Extent::vector(0))
    };
    program.layer(layer).reads.iter().map(axes).map(extent).collect()
}
