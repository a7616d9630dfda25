//! Descriptors that a hostile peer may pass.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::shm::RING_BYTES;
use crate::shm::memory::{DescriptorError, OwnMemory, PeerMemory};

const SEALED: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

fn memfd(bytes: usize, seals: SealFlags) -> OwnedFd {
    let file = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, bytes as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, seals).unwrap();
    file
}

fn refused(file: &OwnedFd) -> Option<DescriptorError> {
    PeerMemory::new(file).err()
}

#[test]
fn a_sealed_ring_is_mapped_and_nothing_else() {
    assert_eq!(refused(&memfd(RING_BYTES, SEALED)), None);
    assert_eq!(refused(&memfd(RING_BYTES, SealFlags::empty())), Some(DescriptorError::Unsealed));
    assert_eq!(refused(&memfd(RING_BYTES, SealFlags::GROW)), Some(DescriptorError::Unsealed));
    for bytes in [0, 1, RING_BYTES - 1, RING_BYTES + 1, 2 * RING_BYTES] {
        let found_bytes = bytes as i64;
        assert_eq!(refused(&memfd(bytes, SEALED)), Some(DescriptorError::Size { found_bytes }));
    }
}

#[test]
fn what_is_no_file_in_memory_is_not_mapped() {
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(RING_BYTES as u64).unwrap();
    let (pipe, _) = std::io::pipe().unwrap();
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    for file in [OwnedFd::from(on_disk), OwnedFd::from(pipe), OwnedFd::from(socket)] {
        // A temporary file may be in memory too; it cannot be sealed.
        assert!(matches!(refused(&file), Some(DescriptorError::Kind | DescriptorError::Unsealed)));
    }
}

#[test]
fn a_file_of_huge_pages_is_not_mapped() {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    // A kernel without huge pages makes none either.
    let Ok(file) = rustix::fs::memfd_create("test", flags) else { return };
    rustix::fs::ftruncate(&file, RING_BYTES as u64).unwrap();
    rustix::fs::fcntl_add_seals(&file, SEALED).unwrap();
    assert_eq!(refused(&file), Some(DescriptorError::Kind));
}

#[test]
fn a_ring_is_written_by_its_owner_alone() {
    let own = OwnMemory::new().unwrap();
    let file = own.file().try_clone_to_owned().unwrap();
    assert_eq!(rustix::io::write(&file, b"x"), Err(rustix::io::Errno::PERM));
    assert_eq!(rustix::fs::ftruncate(&file, 4096), Err(rustix::io::Errno::PERM));
    assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), Err(rustix::io::Errno::PERM));
    assert_eq!(refused(&file), None);
}
