//! Elementary functions over whole vectors, for every instruction set.
//!
//! The same polynomials for all: the instruction sets differ only in whether a multiply-add rounds once or twice.

use pulp::Simd;

/// `e^x`, clamped to what f32 can hold; relative error below 2e-7.
///
/// The range reduction and the polynomial of Cephes' `expf` (S. Moshier), without branches.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let splat = |value: f32| simd.splat_f32s(value);
    let x = simd.min_f32s(simd.max_f32s(x, splat(-87.0)), splat(88.0));
    let rounded = simd.mul_add_e_f32s(x, splat(std::f32::consts::LOG2_E), splat(ROUND));
    let exponent = simd.sub_f32s(rounded, splat(ROUND));
    let rest = simd.mul_add_e_f32s(exponent, splat(-LN2_HIGH), x);
    let rest = simd.mul_add_e_f32s(exponent, splat(-LN2_LOW), rest);
    let mut polynomial = splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = simd.mul_add_e_f32s(polynomial, rest, splat(coefficient));
    }
    let square = simd.mul_f32s(rest, rest);
    let mantissa = simd.add_f32s(simd.mul_add_e_f32s(polynomial, square, rest), splat(1.0));
    let bias = simd.splat_u32s(127u32.wrapping_sub(ROUND.to_bits()));
    let power = simd.add_u32s(simd.transmute_u32s_f32s(rounded), bias);
    let power = simd.wrapping_dyn_shl_u32s(power, simd.splat_u32s(23));
    simd.mul_f32s(mantissa, simd.transmute_f32s_u32s(power))
}

/// `x / (1 + e^(-slope x))`.
#[inline(always)]
pub(crate) fn swish<S: Simd>(simd: S, x: S::f32s, slope: f32) -> S::f32s {
    let decay = exp(simd, simd.mul_f32s(x, simd.splat_f32s(-slope)));
    simd.div_f32s(x, simd.add_f32s(simd.splat_f32s(1.0), decay))
}

/// `x * Φ(x)`; absolute error below 3e-7 times max(|x|, 1).
///
/// Φ's tail by Abramowitz and Stegun 7.1.26, which is of the form polynomial times e^(-z²): for negative `x` nothing cancels.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value: f32| simd.splat_f32s(value);
    let z = simd.mul_f32s(simd.abs_f32s(x), splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = simd.div_f32s(splat(1.0), simd.mul_add_e_f32s(z, splat(0.327_591_1), splat(1.0)));
    let mut polynomial = splat(1.061_405_4);
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        polynomial = simd.mul_add_e_f32s(polynomial, t, splat(coefficient));
    }
    let decay = exp(simd, simd.neg_f32s(simd.mul_f32s(z, z)));
    let half_tail = simd.mul_f32s(simd.mul_f32s(splat(0.5), polynomial), simd.mul_f32s(t, decay));
    let positive = simd.greater_than_or_equal_f32s(x, splat(0.0));
    let share = simd.select_f32s(positive, simd.sub_f32s(splat(1.0), half_tail), half_tail);
    simd.mul_f32s(x, share)
}

#[cfg(test)]
mod tests {
    use pulp::WithSimd;

    use super::*;
    use crate::kernels::cpu::testing::{each_isa, normal_distribution};

    #[derive(Clone, Copy)]
    enum Which {
        Exp,
        Gelu,
    }

    /// Applies a function to one number in every lane.
    struct Probe(Which, f32);

    impl WithSimd for Probe {
        type Output = f32;

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> f32 {
            let x = simd.splat_f32s(self.1);
            let values = match self.0 {
                Which::Exp => exp(simd, x),
                Which::Gelu => gelu(simd, x),
            };
            simd.reduce_max_f32s(values)
        }
    }

    #[test]
    fn exp_is_within_2e_7() {
        each_isa(|isa| {
            for index in -86_000..87_900 {
                let x = index as f32 * 1.000_3e-3;
                let found = f64::from(isa.dispatch(Probe(Which::Exp, x)));
                let expected = f64::from(x).exp();
                assert!((found / expected - 1.0).abs() < 2e-7, "{isa:?}: e^{x} is {expected}, found {found}");
            }
        });
    }

    #[test]
    fn gelu_is_within_3e_7() {
        each_isa(|isa| {
            for index in -60_000..60_000 {
                let x = index as f32 * 2.000_3e-4;
                let found = f64::from(isa.dispatch(Probe(Which::Gelu, x)));
                let expected = f64::from(x) * normal_distribution(f64::from(x));
                let bound = 3e-7 * f64::from(x).abs().max(1.0);
                assert!((found - expected).abs() < bound, "{isa:?}: gelu of {x} is {expected}, found {found}");
            }
        });
    }
}
