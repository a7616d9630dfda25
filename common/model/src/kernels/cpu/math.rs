//! Elementary functions that the compiler can vectorise and that give the same bits on every machine.
//!
//! `f32::exp` calls the system's library for one element at a time.

/// `e^x` for finite `x`, clamped to what f32 can hold; relative error below 2e-7.
///
/// The range reduction and the polynomial of Cephes' `expf` (S. Moshier), without branches.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let exponent = rounded - ROUND;
    let rest = x - exponent * LN2_HIGH - exponent * LN2_LOW;
    let mut polynomial = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        polynomial = polynomial * rest + coefficient;
    }
    let mantissa = polynomial * rest * rest + rest + 1.0;
    let power = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    mantissa * f32::from_bits(power)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// `x * sigmoid(1.702 x)`.
#[inline(always)]
pub(super) fn quick_gelu(x: f32) -> f32 {
    x * sigmoid(1.702 * x)
}

/// `x * Φ(x)`; absolute error below 2e-7 times |x|.
///
/// Φ's tail by Abramowitz and Stegun 7.1.26, which is of the form polynomial times e^(-z²): for negative `x` nothing cancels.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut polynomial = 1.061_405_4;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        polynomial = polynomial * t + coefficient;
    }
    let half_tail = 0.5 * polynomial * t * exp(-z * z);
    x * if x >= 0.0 { 1.0 - half_tail } else { half_tail }
}

/// The sum, in eight lanes so that the compiler can vectorise it: the order of additions is fixed by the length alone.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    rest.iter().fold(lanes.iter().sum(), |sum, &value| sum + term(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_2e_7_of_the_true_value() {
        for index in -87_000..88_000 {
            let x = index as f32 / 1000.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "exp({x})");
        }
        assert!(exp(-1e30) < 1e-37 && exp(1e30) > 1e38 && exp(f32::NAN).is_nan());
    }

    /// Φ by Simpson's rule from 0, good to 1e-12.
    fn normal_distribution(x: f64) -> f64 {
        let density = |y: f64| (-y * y / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let steps = 2000;
        let width = x / f64::from(steps);
        let inner: f64 = (1..steps).map(|step| f64::from(2 + 2 * (step % 2)) * density(f64::from(step) * width)).sum();
        0.5 + (density(0.0) + inner + density(x)) * width / 3.0
    }

    #[test]
    fn gelu_is_within_3e_7_of_the_true_value() {
        for index in -80..=80 {
            let x = index as f32 / 10.0;
            let expected = f64::from(x) * normal_distribution(f64::from(x));
            assert!((f64::from(gelu(x)) - expected).abs() < 3e-7 * f64::from(x.abs().max(1.0)), "gelu({x})");
        }
    }

    #[test]
    fn sigmoid_functions_have_their_known_values() {
        assert!((silu(1.0) - 0.731_058_6).abs() < 1e-6 && (silu(-20.0)).abs() < 1e-6 && silu(-200.0).abs() < 1e-30);
        assert!((quick_gelu(1.0) - 0.845_795_8).abs() < 1e-6);
    }
}
