//! The convolution as it is written down, for every shape: tiles of pixels times panels of weights.
//!
//! Loops, outermost first: groups of panels that stay in the second-level cache, blocks of the depth, tiles of pixels, panels of the group.
//! So the weights come from memory once and a tile's activations are in the first-level cache for all panels but the first.

use std::ops::Range;

use super::epilogue::{Epilogue, Progress, StoreTile};
use super::geometry::Geometry;
use super::layout::{Block, Layout, ROWS, SEGMENT_UNITS, SEGMENTS, VECTORS};
use super::multiply::Multiply;
use super::shared::Shared;
use super::split;
use super::tile::{Rows, Tile, multiply_tile};

/// The most sources of a convolution.
pub(crate) const SOURCES: usize = 4;
/// The widest vectors, in f32.
pub(crate) const LANES: usize = 16;
/// Bytes of the weights of a group of panels: half of a second-level cache of 1 MiB.
const GROUP_BYTES: usize = 512 * 1024;
/// What pixels outside of the image read as.
pub(crate) static ZEROS: [f32; SEGMENT_UNITS] = [0.0; SEGMENT_UNITS];

/// One call.
pub(crate) struct Direct<'a> {
    pub(crate) geometry: &'a Geometry,
    pub(crate) layout: &'a Layout,
    pub(crate) weights: &'a [f32],
    pub(crate) sources: [&'a [f32]; SOURCES],
    /// Pixels of the output, over all rows of the batch.
    pub(crate) pixels: usize,
    pub(crate) epilogue: Epilogue<'a>,
    /// For tiles of matrices: `amx::scratch_floats` for each thread.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has tiles of matrices"))]
    pub(crate) scratch: Shared<'a>,
}

impl Direct<'_> {
    /// Computes all of it. Every sum is made by one thread in one order, so the number of threads does not show in its bits.
    pub(crate) fn run<M: Multiply>(&self, multiply: M) {
        assert_eq!(<M::Simd as pulp::Simd>::F32_LANES, self.layout.lanes, "weights were packed for other vectors");
        self.share(|tiles, panels| {
            let mut sums = Sums([0.0; SUMS]);
            self.for_tiles(tiles, panels, |block, segments, pixels, panels| {
                for panel in panels {
                    let columns = self.layout.columns_of(panel);
                    let weights = &self.weights[self.layout.range(panel, block)];
                    let (rows, output) = (pixels.len(), &mut sums.0);
                    multiply_tile(multiply, Tile { segments, rows, panel: weights, columns, output, stride: columns });
                    multiply.vectorize(self.store_tile(&sums.0, block, pixels.clone(), panel));
                }
            });
        });
    }

    /// Calls `run` with ranges of tiles and panels, over threads if that pays.
    pub(crate) fn share(&self, run: impl Fn(Range<usize>, Range<usize>) + Send + Sync) {
        let (tiles, panels) = (self.pixels.div_ceil(self.layout.rows), self.layout.panels());
        let shares = split::shares(self.pixels * self.layout.depth * self.layout.columns);
        let activations: usize = self.sources.iter().map(|source| source.len()).sum();
        // Whatever is larger, weights or activations, is better read by one thread only.
        let by_panels = shares > 1 && (self.weights.len() > activations && panels * 4 >= shares || tiles * 4 < shares);
        let all = if by_panels { panels } else { tiles };
        let shares = shares.min(all).max(1);
        split::for_each(shares, |index| {
            let share = split::part(all, shares, index);
            if by_panels { run(0..tiles, share) } else { run(share, 0..panels) }
        });
    }

    /// Calls `run` with each block, the rows that a tile reads in it, the tile's pixels, and a group of panels.
    pub(crate) fn for_tiles(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        mut run: impl FnMut(&Block, &[Rows<'_>], Range<usize>, Range<usize>),
    ) {
        let empty: &[f32] = &[];
        let mut rows = [[empty; ROWS]; SEGMENTS];
        let longest = self.layout.blocks.iter().map(|block| block.units).max().unwrap_or(1);
        let group = (GROUP_BYTES / (longest * self.layout.panel_columns() * size_of::<f32>())).max(1);
        let groups = panels.len().div_ceil(group);
        let all_tiles = self.pixels.div_ceil(self.layout.rows);
        for index in 0..groups {
            let group = split::part(panels.len(), groups, index);
            let group = panels.start + group.start..panels.start + group.end;
            for block in &self.layout.blocks {
                for tile in tiles.clone() {
                    let pixels = split::part(self.pixels, all_tiles, tile);
                    self.find_rows(block, pixels.clone(), &mut rows);
                    run(block, &rows[..block.segments.len()], pixels, group.clone());
                }
            }
        }
    }

    /// Finds the channels that the pixels of a tile read in each segment of a block.
    fn find_rows<'a>(&'a self, block: &Block, pixels: Range<usize>, rows: &mut [Rows<'a>; SEGMENTS]) {
        let segments = &self.layout.segments[block.segments.clone()];
        for (row, [batch, top, left]) in self.geometry.windows(pixels.start).enumerate().take(pixels.len()) {
            for (segment, rows) in segments.iter().zip(&mut *rows) {
                let [down, right] = segment.tap;
                rows[row] = match self.geometry.source_pixel(batch, top + down, left + right) {
                    Some(pixel) => {
                        let start = pixel * self.layout.source_units[segment.source] + segment.start;
                        &self.sources[segment.source][start..][..segment.units]
                    }
                    None => &ZEROS[..segment.units],
                };
            }
        }
    }

    /// Stores a tile of sums, whose rows are as long as the panel has columns.
    pub(crate) fn store_tile<'b>(
        &'b self,
        sums: &'b [f32],
        block: &Block,
        pixels: Range<usize>,
        panel: usize,
    ) -> StoreTile<'b, 'b> {
        let progress = Progress { first: block.start == 0, last: block.start + block.units == self.layout.depth };
        let (column, columns) = (panel * self.layout.panel_columns(), self.layout.columns_of(panel));
        StoreTile { epilogue: &self.epilogue, sums, progress, pixel: pixels.start, rows: pixels.len(), column, columns }
    }
}

/// f32 of the sums of the largest tile.
pub(crate) const SUMS: usize = ROWS * VECTORS * LANES;

/// Sums of a tile, aligned to lines of the cache.
#[repr(align(64))]
pub(crate) struct Sums(pub(crate) [f32; SUMS]);
