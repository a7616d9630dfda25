//! The heap's free memory: what a process keeps of it, and when it gives it back.

#![allow(unsafe_code)]

/// Free bytes that are kept: the tensors that are on their way at a time, with their packets. What a process keeps beyond what it uses is at most
/// this for each of its few threads that allocate much, and only where they once used as much.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 64 << 20;

/// Bytes from which an allocation is a mapping of its own, fresh pages each time: as many as the C library lets one set.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 32 << 20;

/// Heaps that threads share, each of which keeps free memory of its own. By default there are eight for each core, so that a process of many threads
/// grows as long as threads come to another heap than before: the coordinator of `bench soak` held twice as much.
/// More threads than these never allocate tensors or packets at the same time: QUIC's two, the device's, and one of the runtime.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 4;

/// Keeps free memory for what comes next, from now on. By default the C library returns all but a little at once, so that every tensor that
/// arrives is paid for in page faults again: half of the time that QUIC takes for tensors of 5 MiB. For the start of a process. Does
/// nothing where the C library cannot.
pub fn keep_for_reuse() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, and may be called from any thread at any time. What it refuses stays as it was, which only costs time.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
    }
}

/// Gives free memory back to the operating system: after work that took much and freed it, such as packing weights, whose raw form would otherwise
/// stay resident as long as the process. Takes some milliseconds for gigabytes. Does nothing where the C library cannot.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
