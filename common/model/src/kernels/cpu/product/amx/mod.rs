//! Products of bf16 by tiles of matrices (AMX): 32 pixels times 32 columns at a time.
//!
//! Weights lie as for vectors: 16 units of a panel are the rows of a tile of the right side. The activations of a tile are copied once for all
//! panels of a group, into left tiles of 16 pixels times 16 units, because the instruction that loads a tile knows one distance between its
//! rows only. A segment's last tile is filled up with zeros; so what the right side has there (the next segment's weights, and zeros after the
//! last) does not count, as long as it is finite.

#[cfg(test)]
mod emulated;
mod hardware;
mod product;

use std::ops::Range;

pub(crate) use self::hardware::available;
use self::product::{Factors, multiply};
use super::direct::{Direct, SUMS, Sums};
use super::layout::{Block, Layout};
use super::tile::Rows;
use crate::kernels::cpu::isa::Isa;

/// Rows of a tile, and units of each.
const SIDE: usize = 16;
/// f32 of a tile.
const TILE: usize = SIDE * SIDE;
/// Tiles of pixels, and tiles of columns.
const TILES: usize = 2;
/// Bytes of a line of the cache, and of a tile's row.
const LINE: usize = 64;

/// The tile instructions that a product needs, on tiles 0 to 7.
pub(crate) trait Tiles {
    /// Sets a tile to zeros.
    fn zero<const TILE: usize>(&mut self);
    /// Loads a tile of 16 rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    /// All rows can be read.
    unsafe fn load<const TILE: usize>(&mut self, rows: *const f32, stride: usize);
    /// Adds to the sums the products of pairs of bf16.
    fn multiply<const SUMS: usize, const LEFT: usize, const RIGHT: usize>(&mut self);
    /// Stores a tile of 16 rows of 64 bytes, `stride` bytes apart.
    ///
    /// # Safety
    /// All rows can be written.
    unsafe fn store<const TILE: usize>(&mut self, rows: *mut f32, stride: usize);
}

/// f32 that one thread needs for the copied activations.
pub(crate) fn scratch_floats(layout: &Layout) -> usize {
    let floats = |block: &Block| left_tiles(layout, block) * TILES * TILE;
    layout.blocks.iter().map(floats).max().unwrap_or(0) + SIDE
}

/// Left tiles of a block, per 16 pixels.
fn left_tiles(layout: &Layout, block: &Block) -> usize {
    layout.segments[block.segments.clone()].iter().map(|segment| segment.units.div_ceil(SIDE)).sum()
}

/// Computes a convolution.
pub(crate) fn run(direct: &Direct<'_>) {
    #[cfg(test)]
    if !available() {
        return run_with(direct, emulated::Emulated::new);
    }
    run_with(direct, hardware::Hardware::new);
}

fn run_with<T: Tiles>(direct: &Direct<'_>, tiles: impl Fn() -> T + Send + Sync) {
    direct.share(|pixel_tiles, panels| {
        let length = scratch_floats(direct.layout);
        let thread = rayon::current_thread_index().unwrap_or(0);
        // SAFETY: a thread runs one share at a time, because a share waits for no other; and threads have different indices.
        let left = unsafe { direct.scratch.part(thread * length, length) };
        let unaligned = left.as_ptr().align_offset(LINE).min(SIDE);
        run_share(direct, tiles(), (pixel_tiles, panels), &mut left[unaligned..]);
    });
}

fn run_share<T: Tiles>(
    direct: &Direct<'_>,
    mut tiles: T,
    (pixel_tiles, panels): (Range<usize>, Range<usize>),
    left: &mut [f32],
) {
    let mut sums = Sums([0.0; SUMS]);
    direct.for_tiles(pixel_tiles, panels, |block, segments, pixels, panels| {
        pack_left(segments, pixels.len(), left);
        for panel in panels {
            let columns = direct.layout.columns_of(panel);
            let weights = &direct.weights[direct.layout.range(panel, block).start..];
            let halves = pixels.len().div_ceil(SIDE);
            multiply(&mut tiles, Factors { left, segments, halves, weights, columns }, &mut sums.0);
            Isa::Amx.dispatch(direct.store_tile(&sums.0, block, pixels.clone(), panel));
        }
    });
}

/// Copies the activations of up to 32 pixels: for each 16 units of each segment two tiles, the rest filled with zeros.
fn pack_left(segments: &[Rows<'_>], pixels: usize, left: &mut [f32]) {
    let mut places = left.chunks_exact_mut(TILES * TILE);
    for rows in segments {
        for start in (0..rows[0].len()).step_by(SIDE) {
            let Some(place) = places.next() else { unreachable!("the scratch has room for a block") };
            for (row, slice) in rows[..pixels].iter().enumerate() {
                let units = &slice[start..slice.len().min(start + SIDE)];
                let line = &mut place[row * SIDE..][..SIDE];
                match units.len() {
                    SIDE => line.copy_from_slice(units),
                    _ => {
                        line[..units.len()].copy_from_slice(units);
                        line[units.len()..].fill(0.0);
                    }
                }
            }
        }
    }
}
