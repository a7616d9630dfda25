//! What every GPU that we care for allows of a launch.

use super::super::launch::Launch;

/// Threads of a block.
const BLOCK: u32 = 1024;

/// Our own: a shuffle is between all lanes.
const WARP: u32 = 32;

/// Shared memory of a block that need not be asked for.
const SHARED_BYTES: u32 = 48 << 10;

/// Blocks along each axis.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// # Panics
/// When a launch would be refused.
pub(crate) fn check(launch: &Launch) {
    let Launch { grid, block, shared_bytes, .. } = launch;
    assert!((1..=BLOCK).contains(block) && block.is_multiple_of(WARP), "{block} threads in {launch:?}");
    assert!(*shared_bytes <= SHARED_BYTES, "{shared_bytes} bytes of shared memory in {launch:?}");
    for (blocks, most) in grid.iter().zip(GRID) {
        assert!((1..=most).contains(blocks), "{grid:?} blocks in {launch:?}");
    }
}
