//! What happens to sums on their way to memory: bias, the row's bias, activation, residual.

use pulp::{Simd, WithSimd};

use super::shared::Shared;
use crate::graph::Activation;
use crate::graph::Store;
use crate::kernels::cpu::vector::{gelu, swish};

/// What one call adds to the sums, and where they go.
pub(crate) struct Epilogue<'a> {
    pub(crate) store: Store,
    /// Channels that are written.
    pub(crate) channels: usize,
    /// Pixels of a row of the batch.
    pub(crate) pixels: usize,
    /// By column.
    pub(crate) bias: &'a [f32],
    /// By row of the batch and channel, and how many rows there are: one, or all.
    pub(crate) row_bias: Option<(&'a [f32], usize)>,
    pub(crate) residual: Option<&'a [f32]>,
    pub(crate) output: Shared<'a>,
}

/// Up to one vector of the output.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Over all rows of the batch.
    pub(crate) pixel: usize,
    pub(crate) column: usize,
    pub(crate) count: usize,
}

/// Reads a vector, or less of one.
#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, slice: &[f32]) -> S::f32s {
    match S::as_simd_f32s(slice).0.first() {
        Some(&vector) => vector,
        None => simd.partial_load_f32s(slice),
    }
}

/// Writes a vector, or less of one.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, slice: &mut [f32], values: S::f32s) {
    match S::as_mut_simd_f32s(slice).0.first_mut() {
        Some(vector) => *vector = values,
        None => simd.partial_store_f32s(slice, values),
    }
}

impl Epilogue<'_> {
    /// The bias of some columns, for [`Self::finish`].
    #[inline(always)]
    pub(crate) fn bias<S: Simd>(&self, simd: S, column: usize) -> S::f32s {
        load(simd, &self.bias[column..])
    }

    /// Finishes sums of [`Store::Plain`].
    #[inline(always)]
    pub(crate) fn finish<S: Simd>(&self, simd: S, sums: S::f32s, bias: S::f32s, place: Place) -> S::f32s {
        let Place { pixel, column, count } = place;
        let mut values = simd.add_f32s(sums, bias);
        if let Some((bias, rows)) = self.row_bias {
            let row = if rows == 1 { 0 } else { pixel / self.pixels };
            values = simd.add_f32s(values, load(simd, &bias[row * self.channels + column..][..count]));
        }
        values = match self.store {
            Store::Plain(Activation::None) | Store::Geglu => values,
            Store::Plain(Activation::Gelu) => gelu(simd, values),
            Store::Plain(Activation::QuickGelu) => swish(simd, values, 1.702),
            Store::Plain(Activation::Silu) => swish(simd, values, 1.0),
        };
        self.add_residual(simd, values, pixel * self.channels + column, count)
    }

    #[inline(always)]
    fn add_residual<S: Simd>(&self, simd: S, values: S::f32s, start: usize, count: usize) -> S::f32s {
        match self.residual {
            Some(residual) => simd.add_f32s(values, load(simd, &residual[start..][..count])),
            None => values,
        }
    }
}

/// Which of the blocks of the depth a tile's sums are of.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) first: bool,
    pub(crate) last: bool,
}

/// Stores a tile of sums. Those of a block that is not the last wait in the output for the next ones.
pub(crate) struct StoreTile<'a, 'b> {
    pub(crate) epilogue: &'b Epilogue<'a>,
    pub(crate) sums: &'b [f32],
    pub(crate) progress: Progress,
    /// The first pixel, and how many.
    pub(crate) pixel: usize,
    pub(crate) rows: usize,
    /// The first column, and how many.
    pub(crate) column: usize,
    pub(crate) columns: usize,
}

impl WithSimd for StoreTile<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.epilogue.store {
            Store::Geglu => self.store_gated(simd),
            Store::Plain(_) => self.store_plain(simd),
        }
    }
}

impl StoreTile<'_, '_> {
    #[inline(always)]
    fn store_plain<S: Simd>(&self, simd: S) {
        let epilogue = self.epilogue;
        for column in (self.column..epilogue.channels.min(self.column + self.columns)).step_by(S::F32_LANES) {
            let count = S::F32_LANES.min(epilogue.channels - column);
            let bias = epilogue.bias(simd, column);
            let sums = self.sums[column - self.column..].chunks(self.columns).take(self.rows);
            for (pixel, sums) in (self.pixel..).zip(sums) {
                // SAFETY: each thread has its own pixels or columns, and takes one part at a time.
                let output = unsafe { epilogue.output.part(pixel * epilogue.channels + column, count) };
                let mut values = load(simd, sums);
                if !self.progress.first {
                    values = simd.add_f32s(values, load(simd, output));
                }
                if self.progress.last {
                    values = epilogue.finish(simd, values, bias, Place { pixel, column, count });
                }
                store(simd, output, values);
            }
        }
    }

    /// A panel of a GEGLU layer is a vector of values and one of their gates.
    #[inline(always)]
    fn store_gated<S: Simd>(&self, simd: S) {
        let epilogue = self.epilogue;
        let channel = self.column / 2;
        let count = S::F32_LANES.min(epilogue.channels - channel);
        let value_bias = epilogue.bias(simd, self.column);
        let gate_bias = epilogue.bias(simd, self.column + S::F32_LANES);
        for row in 0..self.rows {
            let start = (self.pixel + row) * epilogue.channels + channel;
            let (values, gates) = self.sums[row * self.columns..][..self.columns].split_at(S::F32_LANES);
            let values = simd.add_f32s(load(simd, values), value_bias);
            let gates = gelu(simd, simd.add_f32s(load(simd, gates), gate_bias));
            let values = epilogue.add_residual(simd, simd.mul_f32s(values, gates), start, count);
            // SAFETY: each thread has its own pixels or columns, and takes one part at a time.
            store(simd, unsafe { epilogue.output.part(start, count) }, values);
        }
    }
}
