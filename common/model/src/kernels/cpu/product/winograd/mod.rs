//! Winograd's minimal filtering for 3×3 kernels of stride 1 (Lavin and Gray 2015, arXiv 1509.09308): F(2×2, 3×3) and F(4×4, 3×3).
//!
//! A tile of 4×4 (6×6) inputs gives 2×2 (4×4) outputs with 16 (36) products per pair of channels where the definition has 36 (144). Tiles go
//! through in blocks that fit the second-level cache:
//!
//! ```text
//! sources --input transform--> inputs [element][tile][channel]
//!                              inputs[element] x weights[element] = sums [element][tile][column]     (the kernel of direct products)
//!                                                                   sums --output transform, epilogue--> output
//! ```
//! Weights are transformed in f64 and rounded once. Error relative to the largest output: F(2×2) as direct products have, about 1e-6; F(4×4)
//! up to ten times that, because its transforms weigh inputs by up to 5 and sums by up to 8. The tests hold both to it.

mod input;
mod output;
mod planes;
mod transform;
mod weights;

use std::ops::Range;

use self::input::TransformInput;
use self::output::TransformOutput;
pub(crate) use self::weights::{pack, weights_layout};
use super::direct::SOURCES;
use super::epilogue::Epilogue;
use super::geometry::Geometry;
use super::layout::{Layout, ROWS};
use super::multiply::Multiply;
use super::shared::Shared;
use super::spec::{ConvolutionSpec, CpuFormat};
use super::split;
use super::tile::{Rows, Tile, multiply_tile};
use crate::graph::Store;

/// f32 between the planes of two elements: without them planes of a power of two would all fall on the same lines of the cache.
const GAP: usize = 16;
/// Bytes of a block's transformed inputs, if enough tiles fit.
const INPUT_BYTES: usize = 256 * 1024;
/// Bytes of the sums of a block and a group of panels, if at least a panel fits.
const SUM_BYTES: usize = 512 * 1024;
/// The least and the most tiles of a block, in heights of the kernel's tile: fewer read the weights too often.
const BLOCK_ROWS: [usize; 2] = [2, 8];

/// Whether the algorithm can compute a layer.
pub(crate) fn applies(spec: &ConvolutionSpec, format: CpuFormat) -> bool {
    spec.kernel == 3 && spec.stride == 1 && format == CpuFormat::F32 && spec.store != Store::Geglu
}

/// The sizes of a convolution's tiles, blocks and scratch.
#[derive(Clone, Debug)]
pub(crate) struct Tiling {
    /// Outputs of a tile per axis.
    pub(crate) side: usize,
    /// Tiles of a row of the batch per axis.
    pub(crate) grid: [usize; 2],
    /// The most tiles of a block.
    pub(crate) block: usize,
    /// Panels of a group.
    pub(crate) group: usize,
    /// Channels of the input.
    pub(crate) depth: usize,
    /// Columns of a panel.
    pub(crate) panel_columns: usize,
}

impl Tiling {
    /// `layout` is that of [`weights_layout`].
    pub(crate) fn new(side: usize, output_size: [usize; 2], layout: &Layout) -> Self {
        let (depth, panel_columns) = (layout.depth, layout.panel_columns());
        let bytes = (side + 2) * (side + 2) * size_of::<f32>();
        let [least, most] = BLOCK_ROWS;
        let block = (INPUT_BYTES / (bytes * depth) / layout.rows).clamp(least, most) * layout.rows;
        let group = (SUM_BYTES / (bytes * block * panel_columns)).clamp(1, layout.panels());
        Self { side, grid: output_size.map(|size| size.div_ceil(side)), block, group, depth, panel_columns }
    }

    /// Products of a tile per pair of channels.
    pub(crate) fn elements(&self) -> usize {
        (self.side + 2) * (self.side + 2)
    }

    /// Tiles of so many rows of the batch.
    pub(crate) fn tiles(&self, rows: usize) -> usize {
        rows * self.grid[0] * self.grid[1]
    }

    /// Row of the batch, and the first output of a tile.
    pub(crate) fn place(&self, tile: usize) -> [usize; 3] {
        let [height, width] = self.grid;
        let line = tile / width;
        [line / height, line % height * self.side, tile % width * self.side]
    }

    fn input_plane(&self, block: usize) -> usize {
        (block * self.depth).next_multiple_of(GAP) + GAP
    }

    fn sum_plane(&self, block: usize) -> usize {
        block * self.group * self.panel_columns + GAP
    }

    /// f32 that one thread needs.
    pub(crate) fn scratch_floats(&self, rows: usize) -> usize {
        let block = self.block.min(self.tiles(rows));
        self.elements() * (self.input_plane(block) + self.sum_plane(block))
    }
}

/// One call.
pub(crate) struct Winograd<'a> {
    pub(crate) tiling: &'a Tiling,
    pub(crate) geometry: &'a Geometry,
    pub(crate) layout: &'a Layout,
    /// Channels of each source.
    pub(crate) channels: &'a [usize],
    pub(crate) weights: &'a [f32],
    pub(crate) sources: [&'a [f32]; SOURCES],
    pub(crate) rows: usize,
    pub(crate) epilogue: Epilogue<'a>,
    /// [`Tiling::scratch_floats`] for each thread.
    pub(crate) scratch: Shared<'a>,
}

impl Winograd<'_> {
    pub(crate) fn run<M: Multiply>(&self, multiply: M) {
        assert_eq!(<M::Simd as pulp::Simd>::F32_LANES, self.layout.lanes, "weights were packed for other vectors");
        let (tiles, panels) = (self.tiling.tiles(self.rows), self.layout.panels());
        let blocks = tiles.div_ceil(self.tiling.block);
        let shares = split::shares(tiles * self.tiling.elements() * self.layout.depth * self.layout.columns);
        if shares > 1 && blocks < shares {
            // Each thread transforms all inputs, which is little, and reads its own weights, which are much.
            let shares = rayon::current_num_threads().min(panels);
            split::for_each(shares, |index| self.run_part(multiply, 0..blocks, split::part(panels, shares, index)));
        } else {
            let shares = shares.min(blocks);
            split::for_each(shares, |index| self.run_part(multiply, split::part(blocks, shares, index), 0..panels));
        }
    }

    fn run_part<M: Multiply>(&self, multiply: M, blocks: Range<usize>, panels: Range<usize>) {
        let length = self.tiling.scratch_floats(self.rows);
        let thread = rayon::current_thread_index().unwrap_or(0);
        // SAFETY: a thread runs one part at a time, because a part waits for no other; and threads have different indices.
        let scratch = unsafe { self.scratch.part(thread * length, length) };
        let tiles = self.tiling.tiles(self.rows);
        let all_blocks = tiles.div_ceil(self.tiling.block);
        let groups = panels.len().div_ceil(self.tiling.group);
        for block in blocks {
            let tiles = split::part(tiles, all_blocks, block);
            let (inputs, sums) = scratch.split_at_mut(self.tiling.elements() * self.tiling.input_plane(tiles.len()));
            self.transform_input(multiply, tiles.clone(), inputs);
            for index in 0..groups {
                let group = split::part(panels.len(), groups, index);
                let group = panels.start + group.start..panels.start + group.end;
                self.multiply(multiply, (tiles.len(), group.clone()), inputs, sums);
                let columns = group.start * self.tiling.panel_columns
                    ..self.layout.columns.min(group.end * self.tiling.panel_columns);
                let (tiles, plane) = (tiles.clone(), self.tiling.sum_plane(tiles.len()));
                let width = group.len() * self.tiling.panel_columns;
                multiply.vectorize(TransformOutput { winograd: self, tiles, columns, sums, plane, width });
            }
        }
    }

    fn transform_input<M: Multiply>(&self, multiply: M, tiles: Range<usize>, inputs: &mut [f32]) {
        let plane = self.tiling.input_plane(tiles.len());
        multiply.vectorize(TransformInput { winograd: self, tiles, inputs, plane });
    }

    /// The products of a block of tiles with a group of panels, element by element.
    fn multiply<M: Multiply>(
        &self,
        multiply: M,
        (tiles, panels): (usize, Range<usize>),
        inputs: &[f32],
        sums: &mut [f32],
    ) {
        let (depth, panel_columns) = (self.tiling.depth, self.tiling.panel_columns);
        let (elements, stride) = (self.tiling.elements(), panels.len() * panel_columns);
        let [input_plane, sum_plane] = [self.tiling.input_plane(tiles), self.tiling.sum_plane(tiles)];
        let parts = tiles.div_ceil(self.layout.rows);
        let empty: &[f32] = &[];
        for element in 0..elements {
            for part in 0..parts {
                let part = split::part(tiles, parts, part);
                let mut rows: Rows<'_> = [empty; ROWS];
                for (row, tile) in rows.iter_mut().zip(part.clone()) {
                    *row = &inputs[element * input_plane + tile * depth..][..depth];
                }
                for (index, panel) in panels.clone().enumerate() {
                    let columns = self.layout.columns_of(panel);
                    let start = panel * panel_columns * depth * elements + element * depth * columns;
                    let weights = &self.weights[start..][..depth * columns];
                    let output = &mut sums[element * sum_plane + part.start * stride + index * panel_columns..];
                    let (segments, rows) = (std::slice::from_ref(&rows), part.len());
                    multiply_tile(multiply, Tile { segments, rows, panel: weights, columns, output, stride });
                }
            }
        }
    }
}
