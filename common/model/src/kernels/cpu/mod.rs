//! Kernels on the CPU: channels last, weights packed once, nothing allocated after the first run.
//!
//! ```text
//!   Graph ──► Steps: a kernel for each operation, a register for each value
//!                │ run
//!                ▼
//!   Memory of the device: registers, scratch, buffers for what passes between layers
//! ```
//!
//! Work is divided only where dividing it changes no sum, so the bits do not depend on the number of threads.

#[allow(unsafe_code)]
mod attention;
mod group_norm;
mod isa;
mod layer_norm;
mod memory;
mod peak;
mod pointwise;
#[allow(unsafe_code)]
mod product;
mod sinusoids;
mod step;
mod steps;
#[cfg(test)]
mod testing;
mod threads;
mod transpose;
mod vector;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use isa::{CAP_VARIABLE, Isa};
pub use peak::Peak;
pub(super) use product::CpuFormat;
pub(super) use step::memory_of;
pub(super) use steps::Steps;
pub(super) use transpose::{to_channels_first, to_channels_last};

use memory::Memory;

use super::floats::Floats;
use crate::ModelError;

/// One CPU device: its instruction set and its memory.
#[derive(Debug)]
pub(super) struct Cpu {
    isa: Isa,
    /// Locked once per layer; a device computes one layer at a time, so nobody waits.
    memory: Mutex<Memory>,
}

impl Cpu {
    pub(super) fn new(isa: Isa) -> Self {
        Self { isa, memory: Mutex::new(Memory::default()) }
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }

    pub(super) fn trim(&self) {
        self.memory().trim();
    }

    /// A buffer for what passes between layers, filled.
    pub(super) fn filled_buffer(&self, len: usize, fill: impl FnOnce(&mut [f32])) -> Result<Arc<Floats>, ModelError> {
        let mut buffer = self.memory().take_buffer(len)?;
        // A buffer that was just taken has no other holder.
        if let Some(floats) = Arc::get_mut(&mut buffer) {
            fill(floats);
        }
        self.memory().remember_buffer(&buffer);
        Ok(buffer)
    }

    /// After a panic in a kernel the memory is as good as before: every run writes what it reads.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
