//! Layer normalisation: one pass over memory, three looks at a token that the first-level cache holds.

use pulp::{Simd, WithSimd};

use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::threads::for_chunks;

/// Elements that one thread takes at a time: 64 KiB, a share that its own cache holds and that outweighs the hand-over.
const BLOCK: usize = 16 * 1024;

/// Independent sums, so that an addition need not wait for the one before it.
const SUMS: usize = 4;

/// Layer normalisation over the last axis, prepared for one width.
pub(crate) struct LayerNorm {
    width: usize,
    epsilon: f32,
    isa: Isa,
    /// One per element of the last axis.
    scale: Vec<f32>,
    /// One per element of the last axis.
    shift: Vec<f32>,
}

impl LayerNorm {
    /// # Shapes
    /// - `scale` and `shift`: `[width]`
    ///
    /// # Panics
    /// When they are not of that width, or it is zero.
    pub(crate) fn prepare(width: usize, epsilon: f32, isa: Isa, scale: &[f32], shift: &[f32]) -> Self {
        assert!(width > 0, "a layer normalisation over nothing");
        assert_eq!((scale.len(), shift.len()), (width, width), "parameters of a layer normalisation");
        Self { width, epsilon, isa, scale: scale.to_vec(), shift: shift.to_vec() }
    }

    /// Normalises each row.
    ///
    /// # Shapes
    /// - `input` and `output`: `[.., width]`
    pub(crate) fn run(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "input of a layer normalisation");
        assert!(input.len().is_multiple_of(self.width), "rows of a layer normalisation");
        let block = (BLOCK / self.width).max(1) * self.width;
        for_chunks(output.len(), output, block, |index, output| {
            let input = &input[index * block..][..output.len()];
            self.isa.dispatch(Rows { norm: self, input, output });
        });
    }
}

/// A layer normalisation of some rows.
struct Rows<'a> {
    norm: &'a LayerNorm,
    input: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let LayerNorm { width, epsilon, ref scale, ref shift, .. } = *self.norm;
        let (scale, scale_rest) = S::as_simd_f32s(scale);
        let (shift, shift_rest) = S::as_simd_f32s(shift);
        for (row, output) in self.input.chunks_exact(width).zip(self.output.chunks_exact_mut(width)) {
            let statistics = statistics(simd, row, epsilon);
            let (row, row_rest) = S::as_simd_f32s(row);
            let (output, output_rest) = S::as_mut_simd_f32s(output);
            for (((output, &value), &scale), &shift) in output.iter_mut().zip(row).zip(scale).zip(shift) {
                *output = statistics.normalise(simd, value, scale, shift);
            }
            if !output_rest.is_empty() {
                let (scale, shift) = (simd.partial_load_f32s(scale_rest), simd.partial_load_f32s(shift_rest));
                let value = statistics.normalise(simd, simd.partial_load_f32s(row_rest), scale, shift);
                simd.partial_store_f32s(output_rest, value);
            }
        }
    }
}

/// What a row is normalised by. `(x - mean) * deviation_inverse + correction` has mean 0 and deviation 1.
struct Statistics {
    mean: f32,
    deviation_inverse: f32,
    /// What the rounding of the mean is worth: all of it when the mean is large.
    correction: f32,
}

impl Statistics {
    #[inline(always)]
    fn normalise<S: Simd>(&self, simd: S, value: S::f32s, scale: S::f32s, shift: S::f32s) -> S::f32s {
        let distance = simd.sub_f32s(value, simd.splat_f32s(self.mean));
        let (inverse, correction) = (simd.splat_f32s(self.deviation_inverse), simd.splat_f32s(self.correction));
        simd.mul_add_e_f32s(simd.mul_add_e_f32s(distance, inverse, correction), scale, shift)
    }
}

/// Two-pass variance, corrected for the rounding of the mean (Chan, Golub and LeVeque 1983). Not a pivot as for groups: in
/// language models single elements of a row are a thousand deviations away, and one of them as the pivot would cost three digits.
#[inline(always)]
fn statistics<S: Simd>(simd: S, row: &[f32], epsilon: f32) -> Statistics {
    let count = row.len() as f32;
    let zero = simd.splat_f32s(0.0);
    let (vectors, rest) = S::as_simd_f32s(row);
    let (blocks, singles) = vectors.as_chunks::<SUMS>();
    let mut sums = [zero; SUMS];
    for block in blocks {
        for (sum, &value) in sums.iter_mut().zip(block) {
            *sum = simd.add_f32s(*sum, value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(singles) {
        *sum = simd.add_f32s(*sum, value);
    }
    let mean = (join(simd, sums) + rest.iter().sum::<f32>()) / count;

    let pivot = simd.splat_f32s(mean);
    let (mut distances, mut squares) = ([zero; SUMS], [zero; SUMS]);
    for block in blocks {
        for ((sum, square), &value) in distances.iter_mut().zip(&mut squares).zip(block) {
            let distance = simd.sub_f32s(value, pivot);
            *sum = simd.add_f32s(*sum, distance);
            *square = simd.mul_add_e_f32s(distance, distance, *square);
        }
    }
    for ((sum, square), &value) in distances.iter_mut().zip(&mut squares).zip(singles) {
        let distance = simd.sub_f32s(value, pivot);
        *sum = simd.add_f32s(*sum, distance);
        *square = simd.mul_add_e_f32s(distance, distance, *square);
    }
    let (mut distance, mut square) = (join(simd, distances), join(simd, squares));
    for value in rest {
        distance += value - mean;
        square += (value - mean) * (value - mean);
    }
    let rounding = distance / count;
    let variance = (square / count - rounding * rounding).max(0.0);
    let deviation_inverse = 1.0 / (variance + epsilon).sqrt();
    Statistics { mean, deviation_inverse, correction: -rounding * deviation_inverse }
}

#[inline(always)]
fn join<S: Simd>(simd: S, sums: [S::f32s; SUMS]) -> f32 {
    let pairs = (simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
    simd.reduce_sum_f32s(simd.add_f32s(pairs.0, pairs.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{each_isa, greatest_error, numbers, with_threads};

    fn expected(norm: &LayerNorm, input: &[f32]) -> Vec<f64> {
        let mut output = Vec::new();
        for row in input.chunks(norm.width) {
            let count = row.len() as f64;
            let mean = row.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let variance = row.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
            let deviation = (variance + f64::from(norm.epsilon)).sqrt();
            for ((&value, &scale), &shift) in row.iter().zip(&norm.scale).zip(&norm.shift) {
                output.push((f64::from(value) - mean) / deviation * f64::from(scale) + f64::from(shift));
            }
        }
        output
    }

    fn check(isa: Isa, width: usize, input: &[f32], bound: f64) {
        let norm = LayerNorm::prepare(width, 1e-5, isa, &numbers(1, width), &numbers(2, width));
        let mut output = vec![f32::NAN; input.len()];
        norm.run(input, &mut output);
        let error = greatest_error(&output, &expected(&norm, input));
        assert!(error < bound, "{isa:?}, width {width}: error {error:e}");
    }

    #[test]
    fn all_widths_agree_with_the_formula() {
        each_isa(|isa| {
            for width in [1, 2, 7, 16, 33, 64, 77, 128, 320, 321, 768, 1280, 4099] {
                check(isa, width, &numbers(width as u64, 7 * width), 2e-6);
            }
        });
    }

    #[test]
    fn large_means_and_outliers_do_not_cancel() {
        each_isa(|isa| {
            let shifted: Vec<f32> = numbers(3, 3 * 320).iter().map(|value| 10_000.0 + value).collect();
            check(isa, 320, &shifted, 5e-6);
            let mut outliers = numbers(4, 3 * 768);
            outliers.iter_mut().step_by(768).for_each(|value| *value = 3000.0);
            check(isa, 768, &outliers, 5e-6);
        });
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        each_isa(|isa| {
            let norm = LayerNorm::prepare(100, 1e-5, isa, &numbers(1, 100), &numbers(2, 100));
            let input = numbers(5, 2000 * 100);
            let (mut one, mut two) = (vec![f32::NAN; input.len()], vec![f32::NAN; input.len()]);
            with_threads(1, || norm.run(&input, &mut one));
            with_threads(2, || norm.run(&input, &mut two));
            assert_eq!(one, two);
        });
    }
}
