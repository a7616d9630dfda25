//! Tile instructions in plain loops, to test everything around them on CPUs without.

use super::{SIDE, TILE, Tiles};

/// Eight tiles of 16 rows of 64 bytes, as f32 or as pairs of bf16.
pub(super) struct Emulated([[f32; TILE]; 8]);

impl Emulated {
    /// What the instructions leave undefined is not a number here.
    pub(super) fn new() -> Self {
        Self([[f32::NAN; TILE]; 8])
    }
}

/// The two bf16 of a unit.
fn halves(unit: f32) -> [f32; 2] {
    let bits = unit.to_bits();
    [bits << 16, bits & 0xffff_0000].map(f32::from_bits)
}

impl Tiles for Emulated {
    fn zero<const TILE: usize>(&mut self) {
        self.0[TILE].fill(0.0);
    }

    // SAFETY: as the trait asks of callers.
    unsafe fn load<const TILE: usize>(&mut self, rows: *const f32, stride: usize) {
        for (row, line) in self.0[TILE].as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *line = unsafe { rows.byte_add(row * stride).cast::<[f32; SIDE]>().read_unaligned() };
        }
    }

    fn multiply<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self) {
        for row in 0..SIDE {
            for unit in 0..SIDE {
                for column in 0..SIDE {
                    let left = halves(self.0[LEFT][row * SIDE + unit]);
                    let right = halves(self.0[RIGHT][unit * SIDE + column]);
                    self.0[SUMS][row * SIDE + column] += left[0] * right[0] + left[1] * right[1];
                }
            }
        }
    }

    // SAFETY: as the trait asks of callers.
    unsafe fn store<const TILE: usize>(&mut self, rows: *mut f32, stride: usize) {
        for (row, line) in self.0[TILE].as_chunks::<SIDE>().0.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { rows.byte_add(row * stride).cast::<[f32; SIDE]>().write_unaligned(*line) };
        }
    }
}
