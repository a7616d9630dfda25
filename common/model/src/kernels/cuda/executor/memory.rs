//! The memory of a GPU: registers and scratch for the graph that is computed, and buffers for what passes between layers.
//!
//! There is one stream, and everything is in its order: a buffer may be written anew while the work that reads it is still to come, for the
//! new work comes after it. So nobody waits before memory is used again.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::attempt::{Attempt, is_out_of_memory};
use crate::ModelError;
use crate::kernels::cuda::launch::Lowered;

/// What buffers are rounded up to: an allocation of the driver's has at least this alignment, and so has each buffer's length.
const GRAIN_BYTES: usize = 256;

/// Memory that is taken once and used again for every layer and step.
#[derive(Debug)]
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    pub(super) registers: Vec<Option<Buffer>>,
    pub(super) scratch: Option<Buffer>,
    /// By their length. One that only this holds is free.
    values: HashMap<usize, Vec<Arc<Buffer>>>,
}

/// Bytes on the GPU. They are given back in the order of the stream when this is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
}

impl Buffer {
    /// Where it begins, for kernels.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> usize {
        self.slice.len()
    }
}

impl Drop for Buffer {
    /// Parameters are dropped by whoever drops a component last, on a thread that has never seen the GPU.
    fn drop(&mut self) {
        // Should it fail the context is lost, and with it all of its memory.
        let _ = self.slice.context().bind_to_thread();
    }
}

impl Memory {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, registers: Vec::new(), scratch: None, values: HashMap::new() }
    }

    /// Makes sure that registers and scratch are as large as a graph needs them.
    pub(super) fn reserve(&mut self, lowered: &Lowered) -> Result<(), ModelError> {
        if self.registers.len() < lowered.registers.len() {
            self.registers.resize_with(lowered.registers.len(), || None);
        }
        for (index, &bytes) in lowered.registers.iter().enumerate() {
            if self.registers[index].as_ref().is_none_or(|register| register.bytes() < bytes) {
                // Given back before a larger one is taken.
                self.registers[index] = None;
                self.registers[index] = Some(self.allocate(bytes)?);
            }
        }
        if self.scratch.as_ref().is_none_or(|scratch| scratch.bytes() < lowered.scratch_bytes) {
            self.scratch = None;
            self.scratch = Some(self.allocate(lowered.scratch_bytes)?);
        }
        Ok(())
    }

    /// A buffer of at least this many bytes that nobody else holds, with whatever was in it.
    pub(super) fn take_value(&mut self, bytes: usize) -> Result<Arc<Buffer>, ModelError> {
        let known = self.values.entry(rounded(bytes)).or_default();
        if let Some(free) = known.iter().position(|buffer| Arc::strong_count(buffer) == 1) {
            return Ok(Arc::clone(&known[free]));
        }
        let buffer = Arc::new(self.allocate(bytes)?);
        self.values.entry(rounded(bytes)).or_default().push(Arc::clone(&buffer));
        Ok(buffer)
    }

    /// Memory that stays for as long as it is held.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<Buffer, ModelError> {
        match self.try_allocate(bytes)? {
            Some(buffer) => Ok(buffer),
            None => {
                // What lies idle may be of other sizes than what is wanted.
                self.drop_idle_values();
                self.stream.synchronize().failed_to("finish its work")?;
                self.try_allocate(bytes)?.map_or_else(|| Err(self.no_memory(bytes)), Ok)
            }
        }
    }

    /// Gives back what is not in use.
    pub(super) fn trim(&mut self) {
        self.registers.clear();
        self.scratch = None;
        self.drop_idle_values();
    }

    /// `None` where there is not so much.
    fn try_allocate(&self, bytes: usize) -> Result<Option<Buffer>, ModelError> {
        // SAFETY: it holds whatever was there, and bytes have no invalid values. Kernels write it before they read it.
        let slice = match unsafe { self.stream.alloc::<u8>(rounded(bytes)) } {
            Err(error) if is_out_of_memory(error) => return Ok(None),
            allocated => allocated.failed_to(&format!("allocate {bytes} bytes"))?,
        };
        // The stream's events are off, so there is nothing to record when the address has been used.
        let address = slice.device_ptr(&self.stream).0;
        Ok(Some(Buffer { slice, address }))
    }

    fn no_memory(&self, bytes: usize) -> ModelError {
        let reason = match self.stream.context().mem_get_info() {
            Ok((free, total)) => format!("{free} of the GPU's {total} bytes are free"),
            Err(_) => "the GPU has no more".to_owned(),
        };
        ModelError::NoMemory { bytes: bytes as u64, reason }
    }

    fn drop_idle_values(&mut self) {
        self.values.retain(|_, buffers| {
            buffers.retain(|buffer| Arc::strong_count(buffer) > 1);
            !buffers.is_empty()
        });
    }
}

/// No buffer is empty: the driver refuses to allocate nothing.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(GRAIN_BYTES)
}
