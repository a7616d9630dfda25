//! The shared memory itself: made, sealed, checked and mapped.
//!
//! Mappings are handed out as slices by `unsafe` functions, whose callers in this folder know who else uses a range.

#![allow(unsafe_code)]

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;

use super::RING_BYTES;

/// `statfs`'s type of a file in memory. A file of huge pages has another, and reading it may end the process where the
/// pages have run out.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Memory that this process writes and the peer reads.
pub(super) struct OwnMemory {
    mapping: Mapping,
    file: OwnedFd,
}

/// Memory that the peer writes and this process reads.
pub(super) struct PeerMemory(Mapping);

/// Why a descriptor is not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum DescriptorError {
    #[error("it is no file in memory of ordinary pages")]
    Kind,
    #[error("it does not map: {0}")]
    Map(io::Errno),
    #[error("it has {found_bytes} bytes and {RING_BYTES} are expected")]
    Size { found_bytes: i64 },
    #[error("it is not sealed against shrinking")]
    Unsealed,
}

struct Mapping(NonNull<u8>);

// SAFETY: a mapping is plain memory, valid from every thread until it is dropped; who may use which range at a time is
// up to the callers of the functions below.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl OwnMemory {
    /// Makes a ring that can neither change its size nor be written by anyone else.
    pub(super) fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("asyncdiff-ring", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, RING_BYTES as u64)?;
        let mapping = Mapping::new(file.as_fd(), ProtFlags::READ | ProtFlags::WRITE)?;
        // Only writable mappings that exist already stay writable: ours.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        Ok(Self { mapping, file })
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where in the memory these bytes lie, if they do.
    pub(super) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let offset = bytes.as_ptr().addr().checked_sub(self.mapping.0.as_ptr().addr())?;
        (offset.checked_add(bytes.len())? <= RING_BYTES && offset < RING_BYTES).then_some(offset)
    }

    /// # Safety
    /// Nobody may have a mutable slice of the range.
    pub(super) unsafe fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: nobody else writes the memory, for it is sealed; the rest is the caller's promise.
        unsafe { self.mapping.bytes(range) }
    }

    /// # Safety
    /// Nobody may have another slice of the range.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn bytes_mut(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= RING_BYTES, "slots lie in the ring");
        // SAFETY: the range lies in the mapping, as was just checked, which is writable, lives as long as `self` and was
        // zeroed by the kernel; that there is no other slice is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.0.as_ptr().add(range.start), range.len()) }
    }
}

impl PeerMemory {
    /// Maps what a peer has passed, once it is sure that reading it can never fault.
    pub(super) fn new(file: &OwnedFd) -> Result<Self, DescriptorError> {
        // Only a file in memory has seals. Its size is looked at afterwards, when it cannot shrink any more.
        let seals = rustix::fs::fcntl_get_seals(file).map_err(|_| DescriptorError::Kind)?;
        let kind = rustix::fs::fstatfs(file).map_err(|_| DescriptorError::Kind)?.f_type;
        if kind != TMPFS_MAGIC {
            return Err(DescriptorError::Kind);
        }
        if !seals.contains(SealFlags::SHRINK) {
            return Err(DescriptorError::Unsealed);
        }
        let found_bytes = rustix::fs::fstat(file).map_err(DescriptorError::Map)?.st_size;
        if usize::try_from(found_bytes) != Ok(RING_BYTES) {
            return Err(DescriptorError::Size { found_bytes });
        }
        Mapping::new(file.as_fd(), ProtFlags::READ).map(Self).map_err(DescriptorError::Map)
    }

    /// What the peer has placed there. An honest peer leaves it as it is until it is released. A hostile one may change
    /// it at any time, so that whoever reads it must accept any bytes, and must not check them and then read again.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: this process has no mutable slice of a peer's memory, nor could it write it.
        unsafe { self.0.bytes(range) }
    }
}

impl Mapping {
    fn new(file: BorrowedFd<'_>, protection: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), RING_BYTES, protection, MapFlags::SHARED, file, 0)? };
        NonNull::new(base.cast()).map(Self).ok_or(io::Errno::NOMEM)
    }

    /// # Safety
    /// Nobody in this process may have a mutable slice of the range.
    unsafe fn bytes(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= RING_BYTES, "ranges were checked against the ring");
        // SAFETY: the range lies in the mapping, as was just checked; it is readable, lives as long as `self`, and its
        // file cannot shrink, so that every page of it exists or comes zeroed.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and slices of it borrow it.
        let unmapped = unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), RING_BYTES) };
        debug_assert!(unmapped.is_ok(), "a mapping is unmapped once");
    }
}
