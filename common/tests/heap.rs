//! The heap's free memory, in a process of its own: other tests allocate too.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used)]

use asyncdiff_common::heap::give_back;
use asyncdiff_common::system::ResidentMemory;

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
