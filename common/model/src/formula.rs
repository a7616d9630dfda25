//! Weights and inputs made by formula, so that golden data needs to store none: the same numbers in any language.
//!
//! Pure functions of a name, a shape and a seed. The formula is written down in `tests/golden/README.md`; it is a
//! splitmix64 stream (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014) started from the name.

/// The odd number nearest to 2^64 divided by the golden ratio: splitmix64's increment.
const INCREMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// Uniform in `[-1, 1)`, exact in f32, row-major.
///
/// # Shapes
/// - result: the product of `shape`'s axes; `1` for no axes. The caller bounds it.
pub fn noise(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let start = fnv1a64(name.as_bytes()).wrapping_add(seed.wrapping_mul(INCREMENT));
    let mut state = start;
    let elements = shape.iter().product();
    (0..elements)
        .map(|_| {
            state = state.wrapping_add(INCREMENT);
            unit(mix(state))
        })
        .collect()
}

/// The parameter `name` of a checkpoint: matrices and kernels keep a signal's variance, norm weights lie around one,
/// biases around zero.
///
/// # Shapes
/// - result: as for [`noise`]
pub fn weight(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    /// Spread of everything that is a vector; part of the golden data's definition.
    const VECTOR_SPREAD: f32 = 0.17;
    let mut values = noise(name, shape, seed);
    if let [outputs, _, ..] = shape {
        let fan_in = values.len().checked_div(*outputs).unwrap_or(0);
        let scale = (3.0 / fan_in as f64).sqrt() as f32;
        values.iter_mut().for_each(|value| *value *= scale);
    } else if name.ends_with("weight") {
        values.iter_mut().for_each(|value| *value = 1.0 + VECTOR_SPREAD * *value);
    } else {
        values.iter_mut().for_each(|value| *value *= VECTOR_SPREAD);
    }
    values
}

/// The input `key` of a run: pictures lie in `[0, 1)`, everything else has a variance of one.
///
/// # Shapes
/// - result: as for [`noise`]
pub fn input(key: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let mut values = noise(&format!("inputs/{key}"), shape, seed);
    if matches!(key, "control_image" | "low_res_image") {
        values.iter_mut().for_each(|value| *value = 0.5 + 0.5 * *value);
    } else {
        let scale = 3f64.sqrt() as f32;
        values.iter_mut().for_each(|value| *value *= scale);
    }
    values
}

/// The 64-bit FNV-1a hash.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

/// Splitmix64's output function.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The upper 24 bits as a number in `[-1, 1)`: as many as an f32 holds, so nothing is rounded.
fn unit(bits: u64) -> f32 {
    const SCALE: f32 = 1.0 / 8_388_608.0;
    (bits >> 40) as f32 * SCALE - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(values: &[f32]) -> Vec<i32> {
        values.iter().map(|value| (value * 1e4).round() as i32).collect()
    }

    #[test]
    fn noise_has_the_published_check_values() {
        let values = noise("conv_in.weight", &[2, 3], 1);
        assert_eq!(rounded(&values), [7665, -8199, -3954, -3453, -6832, -4729]);
    }

    #[test]
    fn norm_weight_has_the_published_check_values() {
        assert_eq!(rounded(&weight("a.weight", &[4], 7)), [11129, 11110, 10226, 9639]);
    }

    #[test]
    fn matrix_is_scaled_by_its_fan_in_and_a_bias_is_not_shifted() {
        let raw = noise("m.weight", &[4, 3], 1);
        let matrix = weight("m.weight", &[4, 3], 1);
        assert_eq!(matrix, raw, "with a fan-in of three the scale is one");
        let bias = weight("m.bias", &[4], 1);
        assert!(bias.iter().all(|value| value.abs() <= 0.17));
    }

    #[test]
    fn pictures_are_inputs_between_zero_and_one() {
        let picture = input("control_image", &[1, 3, 8, 8], 1);
        assert!(picture.iter().all(|value| (0.0..1.0).contains(value)));
        let latents = input("latents", &[1, 4, 8, 8], 1);
        let variance = latents.iter().map(|value| value * value).sum::<f32>() / latents.len() as f32;
        assert!((variance - 1.0).abs() < 0.15, "variance {variance}");
    }

    #[test]
    fn shapes_without_elements_make_nothing() {
        assert!(weight("m.weight", &[0, 3], 1).is_empty());
        assert_eq!(weight("scale", &[], 1).len(), 1);
    }
}
