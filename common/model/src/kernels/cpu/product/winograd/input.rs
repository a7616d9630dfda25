//! Inputs to the domain where convolving is multiplying: `B^T d B` of each tile and channel.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::planes::{Square, read_pixels, write_column};
use super::{Winograd, transform};
use crate::kernels::cpu::product::direct::ZEROS;
use crate::kernels::cpu::product::epilogue::{load, store};

/// Transforms a block of tiles.
pub(super) struct TransformInput<'a, 'b> {
    pub(super) winograd: &'b Winograd<'a>,
    pub(super) tiles: Range<usize>,
    /// `[element][tile][channel]`.
    pub(super) inputs: &'b mut [f32],
    /// f32 from one element to the next.
    pub(super) plane: usize,
}

impl WithSimd for TransformInput<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.winograd.tiling.side {
            2 => self.run::<S, 4>(simd),
            _ => self.run::<S, 6>(simd),
        }
    }
}

impl TransformInput<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const INPUTS: usize>(self, simd: S) {
        let depth = self.winograd.tiling.depth;
        for (index, tile) in self.tiles.clone().enumerate() {
            let mut first = index * depth;
            for (source, &channels) in self.winograd.channels.iter().enumerate() {
                for start in (0..channels).step_by(ZEROS.len()) {
                    let part = start..channels.min(start + ZEROS.len());
                    let length = part.len();
                    let pixels = self.winograd.find_pixels::<INPUTS>(tile, source, part);
                    transform_tile(simd, &pixels, length, (&mut self.inputs[first..], self.plane));
                    first += length;
                }
            }
        }
    }
}

impl Winograd<'_> {
    /// Some channels of the pixels of a tile's window.
    #[inline(always)]
    fn find_pixels<const INPUTS: usize>(
        &self,
        tile: usize,
        source: usize,
        part: Range<usize>,
    ) -> [[&[f32]; INPUTS]; INPUTS] {
        let [batch, top, left] = self.tiling.place(tile);
        let mut pixels = [[&ZEROS[..part.len()]; INPUTS]; INPUTS];
        for (y, line) in pixels.iter_mut().enumerate() {
            for (x, place) in line.iter_mut().enumerate() {
                if let Some(pixel) = self.geometry.source_pixel(batch, top + y, left + x) {
                    *place = &self.sources[source][pixel * self.channels[source]..][part.clone()];
                }
            }
        }
        pixels
    }
}

#[inline(always)]
fn transform_tile<S: Simd, const INPUTS: usize>(
    simd: S,
    pixels: &[[&[f32]; INPUTS]; INPUTS],
    channels: usize,
    (inputs, plane): (&mut [f32], usize),
) {
    let whole = channels - channels % S::F32_LANES;
    for channel in (0..whole).step_by(S::F32_LANES) {
        let values = transform_square(simd, read_pixels::<S, INPUTS>(simd, pixels, channel));
        for (x, column) in values.into_iter().enumerate() {
            write_column::<S, INPUTS>(inputs, plane, x * plane + channel, column);
        }
    }
    if whole < channels {
        let mut values = [[simd.splat_f32s(0.0); INPUTS]; INPUTS];
        for (value, pixel) in values.as_flattened_mut().iter_mut().zip(pixels.as_flattened()) {
            *value = load(simd, &pixel[whole..channels]);
        }
        for (x, column) in transform_square(simd, values).into_iter().enumerate() {
            for (y, value) in column.into_iter().enumerate() {
                store(simd, &mut inputs[(y * INPUTS + x) * plane..][whole..channels], value);
            }
        }
    }
}

/// `B^T d B`, transposed.
#[inline(always)]
fn transform_square<S: Simd, const INPUTS: usize>(simd: S, mut lines: Square<S, INPUTS>) -> Square<S, INPUTS> {
    for line in &mut lines {
        *line = transform::input(simd, *line);
    }
    let mut columns = lines;
    for x in 0..INPUTS {
        for y in 0..INPUTS {
            columns[x][y] = lines[y][x];
        }
        columns[x] = transform::input(simd, columns[x]);
    }
    columns
}
