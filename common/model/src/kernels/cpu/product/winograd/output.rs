//! Sums back to pixels, `A^T m A` of each tile and channel, and out through the epilogue.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::planes::{Square, read_planes};
use super::{Winograd, transform};
use crate::kernels::cpu::product::epilogue::{Place, store};

/// Transforms the sums of a block of tiles and a group of panels, and stores them.
pub(super) struct TransformOutput<'a, 'b> {
    pub(super) winograd: &'b Winograd<'a>,
    pub(super) tiles: Range<usize>,
    pub(super) columns: Range<usize>,
    /// `[element][tile][column]`.
    pub(super) sums: &'b [f32],
    /// f32 from one element to the next.
    pub(super) plane: usize,
    /// f32 from one tile to the next.
    pub(super) width: usize,
}

impl WithSimd for TransformOutput<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.winograd.tiling.side {
            2 => self.run::<S, 4>(simd),
            _ => self.run::<S, 6>(simd),
        }
    }
}

impl TransformOutput<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const INPUTS: usize>(&self, simd: S) {
        for (index, tile) in self.tiles.clone().enumerate() {
            for column in self.columns.clone().step_by(S::F32_LANES) {
                let start = index * self.width + column - self.columns.start;
                let mut lines: Square<S, INPUTS> = read_planes(simd, self.sums, self.plane, start);
                for line in &mut lines {
                    *line = transform::output(simd, *line);
                }
                self.store(simd, lines, tile, column);
            }
        }
    }

    /// The transform of the other axis; pixels beyond the image are dropped.
    #[inline(always)]
    fn store<S: Simd, const INPUTS: usize>(
        &self,
        simd: S,
        lines: [[S::f32s; INPUTS]; INPUTS],
        tile: usize,
        column: usize,
    ) {
        let epilogue = &self.winograd.epilogue;
        let [height, width] = self.winograd.geometry.output_size;
        let [batch, top, left] = self.winograd.tiling.place(tile);
        let count = S::F32_LANES.min(epilogue.channels - column);
        let bias = epilogue.bias(simd, column);
        for x in 0..(INPUTS - 2).min(width - left) {
            // Not `map`: its closure would be compiled without this function's instruction set.
            let mut values = [simd.splat_f32s(0.0); INPUTS];
            for (value, line) in values.iter_mut().zip(&lines) {
                *value = line[x];
            }
            let values = transform::output(simd, values);
            for (y, value) in values.into_iter().enumerate().take((INPUTS - 2).min(height - top)) {
                let pixel = (batch * height + top + y) * width + left + x;
                let value = epilogue.finish(simd, value, bias, Place { pixel, column, count });
                // SAFETY: each thread has its own tiles or columns, and takes one part at a time.
                store(simd, unsafe { epilogue.output.part(pixel * epilogue.channels + column, count) }, value);
            }
        }
    }
}
