//! The two passes of a group normalisation over memory; vectors run over channels.

use pulp::{Simd, WithSimd};

use crate::kernels::cpu::pointwise::Function;

/// Pixels whose mean is the pivot of a channel. One could be an outlier, and its distance to all others would cancel.
const PIVOT_PIXELS: usize = 4;

/// Pixels that are summed before the sums in memory are touched.
const PIXELS: usize = 4;

/// A number near the mean of each channel, so that a large mean does not cancel in sums of squares: any number would do.
///
/// # Shapes
/// - `pixels`: `[pixels, channels]`
/// - `pivots`: `[channels]`
pub(super) fn pivots(pixels: &[f32], pivots: &mut [f32]) {
    let width = pivots.len();
    if width == 0 {
        return;
    }
    let count = pixels.len() / width;
    pivots.fill(0.0);
    for index in 0..PIVOT_PIXELS {
        let pixel = &pixels[count * index / PIVOT_PIXELS * width..][..width];
        for (pivot, value) in pivots.iter_mut().zip(pixel) {
            *pivot += value * (1.0 / PIVOT_PIXELS as f32);
        }
    }
}

/// Sums of the distances to the pivot, and of their squares.
///
/// # Shapes
/// - `pixels`: `[pixels, channels]`
/// - the others: `[channels]`
pub(super) struct Sums<'a> {
    pub(super) pixels: &'a [f32],
    pub(super) pivot: &'a [f32],
    pub(super) sums: &'a mut [f32],
    pub(super) squares: &'a mut [f32],
}

impl WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.pivot.len();
        self.sums.fill(0.0);
        self.squares.fill(0.0);
        if width == 0 {
            return;
        }
        let mut blocks = self.pixels.chunks_exact(PIXELS * width);
        for block in &mut blocks {
            add_pixels::<S, PIXELS>(simd, block, self.pivot, (&mut *self.sums, &mut *self.squares));
        }
        for pixel in blocks.remainder().chunks_exact(width) {
            add_pixels::<S, 1>(simd, pixel, self.pivot, (&mut *self.sums, &mut *self.squares));
        }
    }
}

/// Adds `COUNT` pixels to the sums.
#[inline(always)]
fn add_pixels<S: Simd, const COUNT: usize>(
    simd: S,
    pixels: &[f32],
    pivot: &[f32],
    (sums, squares): (&mut [f32], &mut [f32]),
) {
    let (pivot, pivot_rest) = S::as_simd_f32s(pivot);
    let (sums, sums_rest) = S::as_mut_simd_f32s(sums);
    let (squares, squares_rest) = S::as_mut_simd_f32s(squares);
    let vectors = pivot.len();
    let mut rows = [(pivot, pivot_rest); COUNT];
    for (row, pixel) in rows.iter_mut().zip(pixels.chunks_exact(pixels.len() / COUNT)) {
        let (vectors_of_pixel, rest) = S::as_simd_f32s(pixel);
        *row = (&vectors_of_pixel[..vectors], rest);
    }
    for (index, ((sum, square), &pivot)) in sums.iter_mut().zip(squares.iter_mut()).zip(pivot).enumerate() {
        let mut added = [simd.splat_f32s(0.0); 2];
        for (row, _) in &rows {
            added = add_vector(simd, row[index], pivot, added);
        }
        *sum = simd.add_f32s(*sum, added[0]);
        *square = simd.add_f32s(*square, added[1]);
    }
    if !pivot_rest.is_empty() {
        let mut joined = [simd.partial_load_f32s(sums_rest), simd.partial_load_f32s(squares_rest)];
        for (_, rest) in rows {
            joined = add_vector(simd, simd.partial_load_f32s(rest), simd.partial_load_f32s(pivot_rest), joined);
        }
        simd.partial_store_f32s(sums_rest, joined[0]);
        simd.partial_store_f32s(squares_rest, joined[1]);
    }
}

/// Adds a distance to the first sum and its square to the second.
#[inline(always)]
fn add_vector<S: Simd>(simd: S, value: S::f32s, pivot: S::f32s, [sum, square]: [S::f32s; 2]) -> [S::f32s; 2] {
    let distance = simd.sub_f32s(value, pivot);
    [simd.add_f32s(sum, distance), simd.mul_add_e_f32s(distance, distance, square)]
}

/// Scales the distances to the pivot, shifts, applies the function and writes one input into the concatenation.
///
/// # Shapes
/// - `pixels`: `[at least those of the output, channels]`
/// - `pivot`, `scale` and `shift`: `[channels]`
/// - `output`: `[pixels, width]`, of which the channels from `first` are written
pub(super) struct Apply<'a, F> {
    pub(super) function: F,
    pub(super) pixels: &'a [f32],
    pub(super) pivot: &'a [f32],
    pub(super) scale: &'a [f32],
    pub(super) shift: &'a [f32],
    pub(super) first: usize,
    pub(super) width: usize,
    pub(super) output: &'a mut [f32],
}

impl<F: Function> WithSimd for Apply<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.pivot.len();
        if channels == 0 {
            return;
        }
        let (pivot, pivot_rest) = S::as_simd_f32s(self.pivot);
        let (scale, scale_rest) = S::as_simd_f32s(self.scale);
        let (shift, shift_rest) = S::as_simd_f32s(self.shift);
        for (pixel, output) in self.pixels.chunks_exact(channels).zip(self.output.chunks_exact_mut(self.width)) {
            let (pixel, pixel_rest) = S::as_simd_f32s(pixel);
            let (output, output_rest) = S::as_mut_simd_f32s(&mut output[self.first..][..channels]);
            let coefficients = pivot.iter().zip(scale).zip(shift);
            for ((output, &value), ((&pivot, &scale), &shift)) in output.iter_mut().zip(pixel).zip(coefficients) {
                let value = simd.mul_add_e_f32s(simd.sub_f32s(value, pivot), scale, shift);
                *output = self.function.apply(simd, value);
            }
            if !output_rest.is_empty() {
                let distance = simd.sub_f32s(simd.partial_load_f32s(pixel_rest), simd.partial_load_f32s(pivot_rest));
                let (scale, shift) = (simd.partial_load_f32s(scale_rest), simd.partial_load_f32s(shift_rest));
                let value = self.function.apply(simd, simd.mul_add_e_f32s(distance, scale, shift));
                simd.partial_store_f32s(output_rest, value);
            }
        }
    }
}
