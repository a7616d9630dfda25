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

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;
    use crate::system::ResidentMemory;

    #[test]
    fn what_was_freed_between_what_is_in_use_is_given_back() {
        // Below the size from which every allocation is a mapping of its own.
        let mut chunks: Vec<Vec<u8>> = (0..2048).map(|_| vec![1; 64 << 10]).collect();
        let kept: Vec<Vec<u8>> =
            chunks.drain(..).enumerate().filter(|(at, _)| at % 64 == 0).map(|(_, chunk)| chunk).collect();
        let resident = || ResidentMemory::of_process(std::process::id()).unwrap().anonymous_bytes;
        let before = resident();
        give_back();
        let given_back = before.saturating_sub(resident());
        assert!(given_back > 64 << 20, "{given_back} of {before} bytes");
        assert!(kept.iter().all(|chunk| chunk[0] == 1));
    }
}
