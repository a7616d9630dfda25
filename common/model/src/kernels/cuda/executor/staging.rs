//! Memory of the host that the GPU copies to and from by itself: pinned, and used again.
//!
//! ```text
//!   a caller fills ──► pinned buffer ── copied beside what is computed ──► value        only the GPU waits, where it is read
//!   value ── copied beside what is computed ──► pinned buffer ──► a caller reads        once the copy's event has come
//! ```

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};

use super::attempt::Attempt;
use super::crossing::Crossing;
use super::memory::Buffer;
use crate::kernels::cuda::error::CudaError;

/// Pinned bytes that may be on their way to the GPU, about: those of several hidden states of the largest networks. Beyond them whoever
/// brings more waits for the GPU.
const STAGED_BYTES_MAX: usize = 256 << 20;

/// Buffers are rounded up to powers of two, and none is smaller: there are few sizes then.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// The pinned buffers of a GPU.
#[derive(Debug, Default)]
pub(super) struct Staging {
    /// One that only this holds, and that no copy uses, is free.
    buffers: Vec<Arc<Pinned>>,
}

/// Pinned memory of the host.
#[derive(Debug)]
struct Pinned {
    memory: PinnedHostSlice<u8>,
    /// Comes when the last copy from or to it has ended.
    copied: CudaEvent,
}

/// Elements that come from the GPU, in memory that is used again once they are dropped.
#[derive(Clone)]
pub(in crate::kernels) struct HostElements {
    pinned: Arc<Pinned>,
    /// The beginning of the pinned memory.
    address: *const f32,
    len: usize,
}

// SAFETY: it owns a share of the memory that it points to, which nobody writes while it is shared.
unsafe impl Send for HostElements {}

// SAFETY: as above.
unsafe impl Sync for HostElements {}

impl Staging {
    /// Has `fill` write elements, and copies them to the GPU beside what is computed. Whoever reads the target there waits for the event first.
    pub(super) fn upload(
        &mut self,
        (computing, copies): (&CudaStream, &mut Crossing),
        len: usize,
        target: &Arc<Buffer>,
        fill: impl FnOnce(&mut [f32]),
    ) -> Result<Arc<CudaEvent>, CudaError> {
        let mut pinned = self.take(copies.stream(), len * size_of::<f32>())?;
        let bytes = pinned.bytes(len * size_of::<f32>())?;
        fill(bytemuck::cast_slice_mut(bytes));
        assert!(bytes.len() <= target.bytes(), "{} bytes into {}", bytes.len(), target.bytes());
        copies.begin(computing)?;
        // SAFETY: the target has room, and pinned memory is neither written nor freed before the event that is recorded behind the copy.
        unsafe { result::memcpy_htod_async(target.address(), bytes, copies.stream().cu_stream()) }
            .failed_to("copy a value from the host")?;
        pinned.copied.record(copies.stream()).failed_to("record an event")?;
        self.buffers.push(Arc::new(pinned));
        copies.end(target)
    }

    /// Begins to copy elements from the GPU, as they are once it has computed what it was given; they are there when [`HostElements::wait`] returns.
    pub(super) fn download(
        &mut self,
        (computing, copies): (&CudaStream, &mut Crossing),
        source: &Arc<Buffer>,
        (address, len): (u64, usize),
    ) -> Result<HostElements, CudaError> {
        let mut pinned = self.take(copies.stream(), len * size_of::<f32>())?;
        let bytes = pinned.bytes(len * size_of::<f32>())?;
        let elements = bytes.as_ptr().cast();
        copies.begin(computing)?;
        // SAFETY: the elements are of the source, which is held until they are copied; the target has their length, and nobody reads it before
        // the event.
        unsafe { result::memcpy_dtoh_async(bytes, address, copies.stream().cu_stream()) }
            .failed_to("copy a value to the host")?;
        pinned.copied.record(copies.stream()).failed_to("record an event")?;
        copies.end(source)?;
        let pinned = Arc::new(pinned);
        self.buffers.push(Arc::clone(&pinned));
        Ok(HostElements { pinned, address: elements, len })
    }

    /// Gives back what is not in use.
    pub(super) fn trim(&mut self) {
        self.buffers.retain(|buffer| Arc::strong_count(buffer) > 1);
    }

    /// A buffer that nobody else holds and no copy uses.
    fn take(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<Pinned, CudaError> {
        let kept: usize = self.buffers.iter().map(|buffer| buffer.memory.len()).sum();
        if let Some(free) = self.take_free(bytes) {
            return Ok(free);
        }
        if kept + bytes > STAGED_BYTES_MAX {
            stream.synchronize().failed_to("finish its work")?;
            if let Some(free) = self.take_free(bytes) {
                return Ok(free);
            }
            // All that is free is too small.
            self.trim();
        }
        let context = stream.context();
        let len = bytes.next_power_of_two().max(BUFFER_BYTES_MIN);
        // SAFETY: bytes have no invalid values, and each is written before it is read. No flags: what was written combined is slow to read.
        let memory = unsafe { context.alloc_pinned_with_flags(len, 0) }.failed_to("pin memory of the host")?;
        let copied = context.new_event(None).failed_to("make an event")?;
        Ok(Pinned { memory, copied })
    }

    /// The smallest free buffer that is large enough.
    fn take_free(&mut self, bytes: usize) -> Option<Pinned> {
        let is_free = |buffer: &Pinned| buffer.memory.len() >= bytes && buffer.copied.is_complete();
        let buffers = self.buffers.iter().enumerate();
        let free = buffers.filter(|(_, buffer)| Arc::strong_count(buffer) == 1 && is_free(buffer));
        let (best, _) = free.min_by_key(|(_, buffer)| buffer.memory.len())?;
        Arc::into_inner(self.buffers.swap_remove(best))
    }
}

impl Pinned {
    /// The first of its bytes.
    fn bytes(&mut self, count: usize) -> Result<&mut [u8], CudaError> {
        Ok(&mut self.memory.as_mut_slice().failed_to("lend pinned memory")?[..count])
    }
}

impl HostElements {
    /// Returns when the copy has ended.
    pub(super) fn wait(self) -> Result<Self, CudaError> {
        self.pinned.copied.synchronize().failed_to("compute what it was given")?;
        Ok(self)
    }
}

impl Deref for HostElements {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the memory has this length and is aligned to a page. Its copy has ended, for nobody is given one of these before `wait`, and
        // it is not written again while this shares it.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }
}

impl AsRef<[u8]> for HostElements {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl fmt::Debug for HostElements {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostElements({})", self.len)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Should it fail the context is lost, and with it all copies.
        let _ = self.copied.synchronize();
    }
}
