//! The heap's free memory.

#![allow(unsafe_code)]

/// Gives free memory back to the operating system: after work that took much and freed it, such as packing weights, whose raw form would otherwise
/// stay resident as long as the process. Takes some milliseconds for gigabytes. Does nothing where the C library cannot.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointer, and may be called from any thread at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}
