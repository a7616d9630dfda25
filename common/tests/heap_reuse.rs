//! The heap's free memory, in a process of its own: other tests allocate too.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used)]

use std::fs;

use asyncdiff_common::heap::keep_for_reuse;

const TENSORS: usize = 4;
const TENSOR_BYTES: usize = 5 << 20;
const PAGE_BYTES: usize = 4096;

#[test]
fn tensors_that_come_and_go_cost_no_page_faults() {
    keep_for_reuse();
    // The first round takes the pages.
    come_and_go();
    let before = minor_faults();
    for _ in 0..8 {
        come_and_go();
    }
    let faults = minor_faults() - before;
    assert!(faults < TENSORS * TENSOR_BYTES / PAGE_BYTES / 8, "{faults} page faults");
}

fn come_and_go() {
    let tensors: Vec<Vec<u8>> = (0..TENSORS).map(|_| std::hint::black_box(vec![1; TENSOR_BYTES])).collect();
    drop(tensors);
}

/// Of this process, since its start: `proc_pid_stat(5)`, field 10.
fn minor_faults() -> usize {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().nth(7).unwrap().parse().unwrap()
}
