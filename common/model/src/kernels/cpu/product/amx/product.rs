//! The product of a tile of pixels and a panel, in tile instructions.

use super::{LINE, SIDE, TILE, TILES, Tiles};
use crate::kernels::cpu::product::tile::Rows;

/// What is multiplied.
pub(super) struct Factors<'a, 'b> {
    /// The copied activations.
    pub(super) left: &'a [f32],
    /// Where they came from: how many units each segment has.
    pub(super) segments: &'a [Rows<'b>],
    /// 16 pixels, or 32.
    pub(super) halves: usize,
    /// The panel from this block on, and what follows it in memory.
    pub(super) weights: &'a [f32],
    /// 16 columns, or 32.
    pub(super) columns: usize,
}

/// Computes sums of `[16 * halves, columns]`.
pub(super) fn multiply<T: Tiles>(tiles: &mut T, factors: Factors<'_, '_>, sums: &mut [f32]) {
    let Factors { left, segments, halves, weights, columns } = factors;
    let lengths = segments.iter().map(|rows| rows[0].len());
    let steps: usize = lengths.clone().map(|units| units.div_ceil(SIDE)).sum();
    let units: usize = lengths.sum();
    assert!(left.len() >= steps * TILES * TILE, "activations are missing");
    assert!(steps == 0 || weights.len() >= (units + SIDE - 1) * columns, "weights lack their padding");
    assert!(sums.len() >= halves * SIDE * columns, "the sums do not fit");
    let factors = Factors { left, segments, halves, weights, columns };
    // SAFETY: checked above, with the number of tiles that each arm has.
    unsafe {
        match (halves, columns / SIDE) {
            (1, 1) => run::<T, 1, 1>(tiles, factors, sums),
            (1, TILES) => run::<T, 1, TILES>(tiles, factors, sums),
            (TILES, 1) => run::<T, TILES, 1>(tiles, factors, sums),
            (TILES, TILES) => run::<T, TILES, TILES>(tiles, factors, sums),
            _ => unreachable!("a tile has 16 or 32 pixels and columns"),
        }
    }
}

/// Sums are in tiles 0 to 3, the left side in 4 and 5, the right one in 6 and 7.
///
/// # Safety
/// `left` has two tiles per step, `weights` 16 units from each step's first one on, `sums` room for all tiles.
#[inline(always)]
unsafe fn run<T: Tiles, const HEIGHT: usize, const WIDTH: usize>(
    tiles: &mut T,
    factors: Factors<'_, '_>,
    sums: &mut [f32],
) {
    let row_bytes = factors.columns * size_of::<f32>();
    let mut left = factors.left.as_ptr();
    let mut panel = factors.weights.as_ptr();
    tiles.zero::<0>();
    tiles.zero::<1>();
    tiles.zero::<2>();
    tiles.zero::<3>();
    for rows in factors.segments {
        for start in (0..rows[0].len()).step_by(SIDE) {
            // SAFETY: the caller's promise.
            unsafe {
                let right = panel.add(start * factors.columns);
                tiles.load::<4>(left, LINE);
                tiles.load::<6>(right, row_bytes);
                tiles.multiply::<0, 4, 6>();
                if WIDTH == TILES {
                    tiles.load::<7>(right.add(SIDE), row_bytes);
                    tiles.multiply::<1, 4, 7>();
                }
                if HEIGHT == TILES {
                    tiles.load::<5>(left.add(TILE), LINE);
                    tiles.multiply::<2, 5, 6>();
                }
                if HEIGHT == TILES && WIDTH == TILES {
                    tiles.multiply::<3, 5, 7>();
                }
                left = left.add(TILES * TILE);
            }
        }
        panel = panel.wrapping_add(rows[0].len() * factors.columns);
    }
    // SAFETY: the caller's promise.
    unsafe {
        let [top, bottom] = [0, SIDE * factors.columns].map(|start| sums.as_mut_ptr().wrapping_add(start));
        tiles.store::<0>(top, row_bytes);
        if WIDTH == TILES {
            tiles.store::<1>(top.add(SIDE), row_bytes);
        }
        if HEIGHT == TILES {
            tiles.store::<2>(bottom, row_bytes);
        }
        if HEIGHT == TILES && WIDTH == TILES {
            tiles.store::<3>(bottom.add(SIDE), row_bytes);
        }
    }
}
