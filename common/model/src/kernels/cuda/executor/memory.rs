//! The memory of a GPU: what the graph that is computed works in, and buffers for what passes between layers.
//!
//! There is one stream, and everything is in its order: a buffer may be written anew while the work that reads it is still to come, for the
//! new work comes after it. So nobody waits before memory is used again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::attempt::{Attempt, is_out_of_memory};
use crate::ModelError;
use crate::kernels::cuda::launch::allocated_bytes;

/// Memory that is taken once and used again for every layer and step.
#[derive(Debug)]
pub(super) struct Memory {
    stream: Arc<CudaStream>,
    /// Registers and scratch of the graph that is computed, as large as the largest that was.
    working: Option<Buffer>,
    /// By their length. One that only this holds is free.
    values: HashMap<usize, Vec<Arc<Buffer>>>,
    held: Arc<Held>,
}

/// Bytes that were asked of the driver and not given back.
#[derive(Debug, Default)]
struct Held {
    now: AtomicU64,
    most: AtomicU64,
}

/// Bytes on the GPU. They are given back in the order of the stream when this is dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    slice: CudaSlice<u8>,
    address: u64,
    held: Arc<Held>,
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
        self.held.now.fetch_sub(self.slice.len() as u64, Ordering::Relaxed);
    }
}

impl Memory {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, working: None, values: HashMap::new(), held: Arc::default() }
    }

    /// Makes sure that there are so many bytes for a graph to work in.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), ModelError> {
        if self.working.as_ref().is_none_or(|working| working.bytes() < bytes) {
            // Given back before a larger one is taken.
            self.working = None;
            self.working = Some(self.allocate(bytes)?);
        }
        Ok(())
    }

    /// Where what was reserved begins.
    pub(super) fn working_address(&self) -> u64 {
        self.working.as_ref().map_or(0, Buffer::address)
    }

    /// The most bytes that were held at a time.
    pub(super) fn most_bytes(&self) -> u64 {
        self.held.most.load(Ordering::Relaxed)
    }

    /// A buffer of at least this many bytes that nobody else holds, with whatever was in it.
    pub(super) fn take_value(&mut self, bytes: usize) -> Result<Arc<Buffer>, ModelError> {
        let known = self.values.entry(allocated_bytes(bytes)).or_default();
        if let Some(free) = known.iter().position(|buffer| Arc::strong_count(buffer) == 1) {
            return Ok(Arc::clone(&known[free]));
        }
        let buffer = Arc::new(self.allocate(bytes)?);
        self.values.entry(allocated_bytes(bytes)).or_default().push(Arc::clone(&buffer));
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
        self.working = None;
        self.drop_idle_values();
    }

    /// `None` where there is not so much.
    fn try_allocate(&self, bytes: usize) -> Result<Option<Buffer>, ModelError> {
        // SAFETY: it holds whatever was there, and bytes have no invalid values. Kernels write it before they read it.
        let slice = match unsafe { self.stream.alloc::<u8>(allocated_bytes(bytes)) } {
            Err(error) if is_out_of_memory(error) => return Ok(None),
            allocated => allocated.failed_to(&format!("allocate {bytes} bytes"))?,
        };
        // The stream's events are off, so there is nothing to record when the address has been used.
        let address = slice.device_ptr(&self.stream).0;
        let bytes = slice.len() as u64;
        let now = self.held.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.held.most.fetch_max(now, Ordering::Relaxed);
        Ok(Some(Buffer { slice, address, held: Arc::clone(&self.held) }))
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
