//! The running softmax of a block of scores. Scores are in units of ln 2: the packed queries hold the factor.

use pulp::Simd;

/// Independent maxima, so that one need not wait for the one before it.
const MAXIMA: usize = 4;

/// Turns scores into weights in place, against the greatest score so far, and returns what earlier sums are to be multiplied by.
///
/// # Shapes
/// - `scores`: `[keys]` of vectors
#[inline(always)]
pub(super) fn soften<S: Simd, const V: usize>(
    simd: S,
    scores: &mut [[S::f32s; V]],
    maximum: &mut [S::f32s; V],
    sum: &mut [S::f32s; V],
) -> [S::f32s; V] {
    let greatest = greatest(simd, scores, *maximum);
    let mut correction = [simd.splat_f32s(0.0); V];
    for index in 0..V {
        correction[index] = exp2_of_negative(simd, simd.sub_f32s(maximum[index], greatest[index]));
        sum[index] = simd.mul_f32s(sum[index], correction[index]);
    }
    *maximum = greatest;
    let mut total = *sum;
    for scores in scores {
        for index in 0..V {
            let weight = exp2_of_negative(simd, simd.sub_f32s(scores[index], greatest[index]));
            total[index] = simd.add_f32s(total[index], weight);
            scores[index] = weight;
        }
    }
    *sum = total;
    correction
}

#[inline(always)]
fn greatest<S: Simd, const V: usize>(simd: S, scores: &[[S::f32s; V]], so_far: [S::f32s; V]) -> [S::f32s; V] {
    let mut maxima = [so_far; MAXIMA];
    let (blocks, rest) = scores.as_chunks::<MAXIMA>();
    for block in blocks {
        for (maxima, scores) in maxima.iter_mut().zip(block) {
            for (maximum, &score) in maxima.iter_mut().zip(scores) {
                *maximum = simd.max_f32s(*maximum, score);
            }
        }
    }
    let mut joined = so_far;
    for scores in maxima.iter().chain(rest) {
        for (maximum, &score) in joined.iter_mut().zip(scores) {
            *maximum = simd.max_f32s(*maximum, score);
        }
    }
    joined
}

/// `2^x` for `x <= 0`, relative error below 3e-7; exactly zero from -127 on, as hidden keys need it.
///
/// A polynomial for the distance to the nearest integer (Lawson's iteration, relative error 9e-8, exactly 1 at 0), whose exponent
/// is then moved by that integer: twelve operations.
#[expect(clippy::approx_constant, reason = "the best coefficient for this degree is near ln 2, not ln 2")]
#[inline(always)]
pub(super) fn exp2_of_negative<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let splat = |value: f32| simd.splat_f32s(value);
    let x = simd.max_f32s(x, splat(-127.0));
    let rounded = simd.add_f32s(x, splat(ROUND));
    let rest = simd.sub_f32s(x, simd.sub_f32s(rounded, splat(ROUND)));
    let mut polynomial = splat(1.326_472_7e-3);
    for coefficient in [9.671_512e-3, 5.550_734e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        polynomial = simd.mul_add_e_f32s(polynomial, rest, splat(coefficient));
    }
    let exponent = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(rounded), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(polynomial), exponent))
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::cpu::testing::each_isa;

    struct Probe(f32);

    impl WithSimd for Probe {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            simd.reduce_max_f32s(exp2_of_negative(simd, simd.splat_f32s(self.0)))
        }
    }

    #[test]
    fn powers_of_two_are_within_3e_7() {
        each_isa(|isa| {
            for index in 0..200_000 {
                let x = index as f32 * -6.299_3e-4;
                let found = f64::from(isa.dispatch(Probe(x)));
                assert!((found / f64::from(x).exp2() - 1.0).abs() < 3e-7, "{isa:?}: 2^{x}, found {found}");
            }
        });
    }

    #[test]
    fn the_ends_are_exact() {
        each_isa(|isa| {
            assert_eq!(isa.dispatch(Probe(0.0)), 1.0);
            assert_eq!(isa.dispatch(Probe(-1.0)), 0.5);
            for hidden in [-127.0, -1.0e30, f32::NEG_INFINITY] {
                assert_eq!(isa.dispatch(Probe(hidden)).to_bits(), 0);
            }
        });
    }
}
