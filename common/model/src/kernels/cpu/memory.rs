//! The memory of a device: registers and scratch for the layer that is computed, and buffers for what passes between layers.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ModelError;
use crate::kernels::floats::Floats;

/// Memory that is taken once and used again for every layer and step.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// `None` while a kernel writes it, and after a panic in one.
    pub(super) registers: Vec<Option<Floats>>,
    pub(super) scratch: Option<Floats>,
    /// Rows of each slot of the graph that runs.
    pub(super) rows: Vec<usize>,
    /// The outputs of the graph that runs.
    pub(super) outputs: Vec<Option<Arc<Floats>>>,
    buffers: Buffers,
}

/// Buffers by their length. One that only this holds is free.
#[derive(Debug, Default)]
struct Buffers(HashMap<usize, Vec<Arc<Floats>>>);

impl Memory {
    /// Makes sure that registers and scratch are at least this large.
    pub(super) fn reserve(
        &mut self,
        registers: impl ExactSizeIterator<Item = usize>,
        scratch: usize,
    ) -> Result<(), ModelError> {
        if self.registers.len() < registers.len() {
            self.registers.resize_with(registers.len(), || None);
        }
        for (register, len) in self.registers.iter_mut().zip(registers) {
            grow(register, len)?;
        }
        grow(&mut self.scratch, scratch)
    }

    /// A buffer that nobody else holds, with whatever was in it.
    pub(super) fn take_buffer(&mut self, len: usize) -> Result<Arc<Floats>, ModelError> {
        let known = self.buffers.0.entry(len).or_default();
        match known.iter().position(|buffer| Arc::strong_count(buffer) == 1) {
            Some(free) => Ok(known.swap_remove(free)),
            None => Ok(Arc::new(Floats::zeros(len)?)),
        }
    }

    /// Remembers a buffer, unless it was lent, so that it is used again when nobody else holds it any more.
    pub(super) fn remember_buffer(&mut self, buffer: &Arc<Floats>) {
        if !buffer.is_lent() {
            self.buffers.0.entry(buffer.len()).or_default().push(Arc::clone(buffer));
        }
    }

    /// Gives back what is not in use.
    pub(super) fn trim(&mut self) {
        self.registers.clear();
        self.scratch = None;
        self.buffers.0.retain(|_, buffers| {
            buffers.retain(|buffer| Arc::strong_count(buffer) > 1);
            !buffers.is_empty()
        });
    }
}

fn grow(floats: &mut Option<Floats>, len: usize) -> Result<(), ModelError> {
    match floats {
        Some(floats) => floats.grow(len),
        None => {
            *floats = Some(Floats::zeros(len)?);
            Ok(())
        }
    }
}
