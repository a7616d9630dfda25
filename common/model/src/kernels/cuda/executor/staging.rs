//! Memory of the host that the GPU copies to and from by itself: pinned, and used again.
//!
//! ```text
//!   a caller fills ──► pinned buffer ── copied beside what is computed ──► value        only the GPU waits, where it is read
//!   value ── copied beside what is computed ──► pinned buffer ──► a caller reads        once the copy's event has come
//! ```

use std::fmt;
use std::ops::{Deref, Range};
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

/// Bytes that come from the GPU, in memory that is used again once they are dropped.
#[derive(Clone)]
pub(in crate::kernels) struct HostBytes {
    pinned: Arc<Pinned>,
    /// The beginning of the pinned memory.
    address: *const u8,
    len: usize,
}

/// The same as elements of f32.
#[derive(Clone, Debug)]
pub(in crate::kernels) struct HostElements(pub(super) HostBytes);

// SAFETY: it owns a share of the memory that it points to, which nobody writes while it is shared.
unsafe impl Send for HostBytes {}

// SAFETY: as above.
unsafe impl Sync for HostBytes {}

impl Staging {
    /// Has `fill` write bytes, and copies them to a place in a buffer beside what is computed. Whoever reads it on the GPU waits for the event first.
    pub(super) fn upload(
        &mut self,
        (computing, copies): (&CudaStream, &mut Crossing),
        (target, range): (&Arc<Buffer>, Range<usize>),
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Arc<CudaEvent>, CudaError> {
        assert!(range.end <= target.bytes(), "{range:?} of {} bytes", target.bytes());
        let mut pinned = self.take(copies.stream(), range.len())?;
        let bytes = pinned.bytes(range.len())?;
        fill(bytes);
        copies.begin(computing)?;
        let address = target.address() + range.start as u64;
        // SAFETY: the target has room, and pinned memory is neither written nor freed before the event that is recorded behind the copy.
        unsafe { result::memcpy_htod_async(address, bytes, copies.stream().cu_stream()) }
            .failed_to("copy a value from the host")?;
        pinned.copied.record(copies.stream()).failed_to("record an event")?;
        self.buffers.push(Arc::new(pinned));
        copies.end(target)
    }

    /// Begins to copy bytes of a buffer from the GPU, as they are once it has computed what it was given; they are there when [`HostBytes::wait`] returns.
    pub(super) fn download(
        &mut self,
        (computing, copies): (&CudaStream, &mut Crossing),
        (source, range): (&Arc<Buffer>, Range<usize>),
    ) -> Result<HostBytes, CudaError> {
        assert!(range.end <= source.bytes(), "{range:?} of {} bytes", source.bytes());
        let (address, len) = (source.address() + range.start as u64, range.len());
        let mut pinned = self.take(copies.stream(), len)?;
        let bytes = pinned.bytes(len)?;
        let first = bytes.as_ptr();
        copies.begin(computing)?;
        // SAFETY: the bytes are of the source, which is held until they are copied; the target has their length, and nobody reads it before
        // the event.
        unsafe { result::memcpy_dtoh_async(bytes, address, copies.stream().cu_stream()) }
            .failed_to("copy a value to the host")?;
        pinned.copied.record(copies.stream()).failed_to("record an event")?;
        copies.end(source)?;
        let pinned = Arc::new(pinned);
        self.buffers.push(Arc::clone(&pinned));
        Ok(HostBytes { pinned, address: first, len })
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

impl HostBytes {
    /// Returns when the copy has ended.
    pub(in crate::kernels) fn wait(self) -> Result<Self, CudaError> {
        self.pinned.copied.synchronize().failed_to("compute what it was given")?;
        Ok(self)
    }
}

impl AsRef<[u8]> for HostBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the memory has this length and is aligned to a page. Its copy has ended, for nobody is given one of these before `wait`, and
        // it is not written again while this shares it.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }
}

impl Deref for HostElements {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_ref())
    }
}

impl AsRef<[u8]> for HostElements {
    fn as_ref(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HostBytes({})", self.len)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Should it fail the context is lost, and with it all copies.
        let _ = self.copied.synchronize();
    }
}
