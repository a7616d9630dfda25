//! The denoiser as a program: a flat list of layers in single assignment form, built from a configuration without weights.
//!
//! A program knows shapes, weight names and costs, and no arithmetic: the model crate keeps, beside each layer, how to compute it.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{InputId, LayerId, ValueId};

/// The denoiser's layers in an order in which each reads only what was written before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// What a layer may read besides values: latents, timestep, conditions.
    pub inputs: Vec<InputSpec>,
    /// The layers; layer `i` writes value `i`.
    pub layers: Vec<Layer>,
    /// The value that is the noise prediction.
    pub output: ValueId,
}

/// A graph input: known to every worker, never stale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// What it is.
    pub kind: InputKind,
    /// Its shape and element size for one row of the batch.
    pub value: ValueSpec,
}

/// What a graph input is, and so how often it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InputKind {
    /// Constant during a job: `encoder_hidden_states`, added conditions. The name is the argument's in diffusers.
    Condition(String),
    /// The scaled latents of a step.
    Latents,
    /// The timestep that conditions a run: one number, part of the plan.
    Timestep,
}

/// One layer: reads operands, writes one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The checkpoint's module path, such as `down_blocks.0.resnets.0.conv1`.
    pub name: String,
    /// What it reads, in the order in which its arithmetic takes it.
    pub reads: Vec<Operand>,
    /// What it writes, for one row of the batch.
    pub writes: ValueSpec,
    /// Who computes it.
    pub ownership: Ownership,
    /// The parameters that it needs, as named in the checkpoint.
    pub weights: Vec<WeightSpec>,
    /// Floating point operations for one row of the batch (a multiply-add counts as two).
    pub flops: u64,
}

/// Something that a layer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operand {
    /// A graph input.
    Input(InputId),
    /// What an earlier layer wrote.
    Value(ValueId),
}

/// Who computes a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// One component computes it; the others read its value.
    Owned,
    /// Every component that reads it computes it itself, so it is never stale and never travels:
    /// time embeddings, concatenations, residual adds.
    Shared,
}

/// Shape and element size of a tensor for one row of the batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueSpec {
    /// The axes after the batch axis, such as `[channels, height, width]`; empty for one number per row.
    pub shape: Vec<u32>,
    /// Bytes per element when it travels as computed.
    pub element_bytes: u8,
}

/// A parameter of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WeightSpec {
    /// The name in the checkpoint, such as `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// The axes as stored.
    pub shape: Vec<u32>,
}

/// Why a list of layers is no program. All of these are mistakes of a program builder.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProgramError {
    /// Two layers have one name, so a partition could not tell them apart.
    #[error("layer name {0} is used twice")]
    DuplicateName(String),
    /// A layer reads a value that is not written before it.
    #[error("layer {layer} reads {operand:?}, which nothing before it makes")]
    ReadsUnwritten {
        /// The reading layer.
        layer: String,
        /// What it reads.
        operand: Operand,
    },
    /// The output is no layer's value, or belongs to a shared layer.
    #[error("the output {0} is not the value of an owned layer")]
    BadOutput(ValueId),
    /// More layers or inputs than an id can count.
    #[error("{0} layers are more than the {max} that ids can count", max = u16::MAX)]
    TooManyLayers(usize),
}

impl Program {
    /// Checks single assignment form and names; every other function of this crate relies on it.
    pub fn new(inputs: Vec<InputSpec>, layers: Vec<Layer>, output: ValueId) -> Result<Self, ProgramError> {
        if layers.len() > usize::from(u16::MAX) {
            return Err(ProgramError::TooManyLayers(layers.len()));
        }
        let mut names = HashSet::new();
        for (index, layer) in layers.iter().enumerate() {
            if !names.insert(layer.name.as_str()) {
                return Err(ProgramError::DuplicateName(layer.name.clone()));
            }
            for &operand in &layer.reads {
                let made = match operand {
                    Operand::Input(input) => input.index() < inputs.len(),
                    Operand::Value(value) => value.index() < index,
                };
                if !made {
                    return Err(ProgramError::ReadsUnwritten { layer: layer.name.clone(), operand });
                }
            }
        }
        match layers.get(output.index()) {
            Some(layer) if layer.ownership == Ownership::Owned => Ok(Self { inputs, layers, output }),
            _ => Err(ProgramError::BadOutput(output)),
        }
    }

    /// The layer with this id.
    ///
    /// # Panics
    /// When the id is of another program.
    #[must_use]
    pub fn layer(&self, id: LayerId) -> &Layer {
        &self.layers[id.index()]
    }

    /// The layers with their ids, in order.
    pub fn layers(&self) -> impl Iterator<Item = (LayerId, &Layer)> {
        self.layers.iter().enumerate().map(|(index, layer)| (LayerId(index as u16), layer))
    }

    /// The layers that a component can own, in order.
    pub fn owned_layers(&self) -> impl Iterator<Item = (LayerId, &Layer)> {
        self.layers().filter(|(_, layer)| layer.ownership == Ownership::Owned)
    }

    /// The layer with this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<LayerId> {
        self.layers().find(|(_, layer)| layer.name == name).map(|(id, _)| id)
    }

    /// The owned layers' values and the graph inputs that `layer` reads when shared layers are computed by the reader.
    #[must_use]
    pub fn resolved_reads(&self, layer: LayerId) -> Vec<Operand> {
        let mut resolved = Vec::new();
        self.resolve_into(layer, &mut resolved);
        resolved.sort_unstable();
        resolved.dedup();
        resolved
    }

    fn resolve_into(&self, layer: LayerId, resolved: &mut Vec<Operand>) {
        for &operand in &self.layer(layer).reads {
            match operand {
                Operand::Value(value) if self.layer(value.layer()).ownership == Ownership::Shared => {
                    self.resolve_into(value.layer(), resolved);
                }
                _ => resolved.push(operand),
            }
        }
    }

    /// Whether a layer's value depends on the job's conditions alone: it is shared, and computed once per job and lane.
    #[must_use]
    pub fn is_constant(&self, layer: LayerId) -> bool {
        let layer = self.layer(layer);
        let constant = |operand: &Operand| match *operand {
            Operand::Input(input) => matches!(self.inputs[input.index()].kind, InputKind::Condition(_)),
            Operand::Value(value) => self.is_constant(value.layer()),
        };
        layer.ownership == Ownership::Shared && layer.reads.iter().all(constant)
    }

    /// Bytes of one row of the batch that a run of these layers holds at a time, at most: what passes between them and others and what is
    /// constant, and of all else what is still to be read.
    #[must_use]
    pub fn held_row_bytes(&self, owned: &[LayerId]) -> u64 {
        let run = self.with_shared(owned);
        let mut ours = vec![false; self.layers.len()];
        run.iter().for_each(|layer| ours[layer.index()] = true);
        let mut kept: Vec<bool> = self.layers().map(|(id, _)| ours[id.index()] && self.is_constant(id)).collect();
        let mut last_readers: Vec<Option<LayerId>> = vec![None; self.layers.len()];
        for (id, layer) in self.layers() {
            for &operand in &layer.reads {
                let Operand::Value(value) = operand else { continue };
                kept[value.index()] |= ours[id.index()] != ours[value.index()];
                if ours[id.index()] {
                    last_readers[value.index()] = Some(id);
                }
            }
        }
        let bytes = |value: usize| self.layers[value].writes.row_bytes();
        let mut held: u64 = (0..kept.len()).filter(|&value| kept[value]).map(bytes).sum();
        let mut most = held;
        for layer in run {
            if !kept[layer.index()] {
                held += bytes(layer.index());
            }
            most = most.max(held);
            // By value and not by read: a layer may read one twice.
            let dead = (0..=layer.index()).filter(|&value| ours[value] && !kept[value]);
            let dead = dead.filter(|&value| last_readers[value].unwrap_or(LayerId(value as u16)) == layer);
            held -= dead.map(bytes).sum::<u64>();
        }
        most
    }

    /// The owned layers given and the shared ones that they need, in program order.
    #[must_use]
    pub fn with_shared(&self, owned: &[LayerId]) -> Vec<LayerId> {
        let mut wanted = vec![false; self.layers.len()];
        let mut open: Vec<LayerId> = owned.to_vec();
        while let Some(layer) = open.pop() {
            if std::mem::replace(&mut wanted[layer.index()], true) {
                continue;
            }
            for &operand in &self.layer(layer).reads {
                if let Operand::Value(value) = operand
                    && self.layer(value.layer()).ownership == Ownership::Shared
                {
                    open.push(value.layer());
                }
            }
        }
        self.layers().map(|(id, _)| id).filter(|id| wanted[id.index()]).collect()
    }
}

impl ValueSpec {
    /// A value of 4-byte elements with these axes after the batch axis.
    #[must_use]
    pub fn f32(shape: impl Into<Vec<u32>>) -> Self {
        Self { shape: shape.into(), element_bytes: 4 }
    }

    /// Elements of one row of the batch.
    #[must_use]
    pub fn row_elements(&self) -> u64 {
        self.shape.iter().map(|&axis| u64::from(axis)).product()
    }

    /// Bytes of one row of the batch when it travels as computed.
    #[must_use]
    pub fn row_bytes(&self) -> u64 {
        self.row_elements() * u64::from(self.element_bytes)
    }
}

impl WeightSpec {
    /// Number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&axis| u64::from(axis)).product()
    }
}
