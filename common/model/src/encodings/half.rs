//! Elements of 16 bits: IEEE half precision and bfloat16, rounded to the nearest even.
//!
//! In integer arithmetic and without branches, so that loops become vectors of every instruction set and all give the same bits. F. Giesen's
//! conversions (float_to_half_fast3_rtne), but for what f16 cannot hold: infinities would spread through every layer of the receiver, so
//! finite elements beyond its range become its largest number.

use asyncdiff_plan::Encoding;
use pulp::{Simd, WithSimd};

use super::EncodingError;
use super::error::check_length;
use crate::kernels::Isa;

/// A type of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The upper half of f32.
    Bf16,
    /// IEEE half precision.
    F16,
}

const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7f80_0000;

/// The largest f16, 65504.
const F16_MAX: u32 = 0x477f_e000;

/// The smallest f32 that is a normal f16: 2^-14.
const F16_MIN_NORMAL: u32 = 113 << 23;

/// Adding 0.5 leaves an f16 below [`F16_MIN_NORMAL`] rounded in the low bits.
const F16_SUBNORMAL: u32 = 126 << 23;

/// Rounds elements.
///
/// # Shapes
/// - `elements`: any
/// - `bytes`: two for each element, little-endian
pub fn encode_half(isa: Isa, half: Half, elements: &[f32], bytes: &mut [u8]) -> Result<(), EncodingError> {
    check_length(elements.len(), Encoding::F16.bytes(elements.len() as u64), bytes.len())?;
    match half {
        Half::Bf16 => isa.dispatch(Encode { round: to_bf16, elements, bytes }),
        Half::F16 => isa.dispatch(Encode { round: to_f16, elements, bytes }),
    }
    Ok(())
}

/// The elements that these bytes are.
///
/// # Shapes
/// - `bytes`: two for each element, little-endian
/// - `elements`: any
pub fn decode_half(isa: Isa, half: Half, bytes: &[u8], elements: &mut [f32]) -> Result<(), EncodingError> {
    check_length(elements.len(), Encoding::F16.bytes(elements.len() as u64), bytes.len())?;
    match half {
        Half::Bf16 => isa.dispatch(Decode { widen: from_bf16, bytes, elements }),
        Half::F16 => isa.dispatch(Decode { widen: from_f16, bytes, elements }),
    }
    Ok(())
}

struct Encode<'a, F> {
    round: F,
    elements: &'a [f32],
    bytes: &'a mut [u8],
}

impl<F: Fn(f32) -> u16> WithSimd for Encode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (place, &element) in self.bytes.as_chunks_mut::<2>().0.iter_mut().zip(self.elements) {
            *place = (self.round)(element).to_le_bytes();
        }
    }
}

struct Decode<'a, F> {
    widen: F,
    bytes: &'a [u8],
    elements: &'a mut [f32],
}

impl<F: Fn(u16) -> f32> WithSimd for Decode<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (element, &bytes) in self.elements.iter_mut().zip(self.bytes.as_chunks::<2>().0) {
            *element = (self.widen)(u16::from_le_bytes(bytes));
        }
    }
}

#[inline(always)]
fn to_bf16(element: f32) -> u16 {
    let bits = element.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A payload in the lower bits alone must not round to infinity.
    let quiet = bits >> 16 | 0x40;
    (if bits & !SIGN > INFINITY { quiet } else { rounded }) as u16
}

#[inline(always)]
fn from_bf16(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[inline(always)]
fn to_f16(element: f32) -> u16 {
    let bits = element.to_bits();
    let magnitude = bits & !SIGN;
    let within = magnitude.min(F16_MAX);
    let normal = within.wrapping_add((112 << 23) ^ u32::MAX).wrapping_add(1 + 0xfff + (within >> 13 & 1)) >> 13;
    let small = (f32::from_bits(within) + f32::from_bits(F16_SUBNORMAL)).to_bits().wrapping_sub(F16_SUBNORMAL);
    let finite = if within < F16_MIN_NORMAL { small } else { normal };
    let special = if magnitude > INFINITY { 0x7e00 } else { 0x7c00 };
    let rounded = if magnitude < INFINITY { finite } else { special };
    (rounded | bits >> 16 & 0x8000) as u16
}

#[inline(always)]
fn from_f16(half: u16) -> f32 {
    let (sign, magnitude) = ((u32::from(half) & 0x8000) << 16, (u32::from(half) & 0x7fff) << 13);
    let exponent = magnitude & 0x0f80_0000;
    let normal = magnitude + (112 << 23);
    // Infinities and NaN keep the greatest exponent; subnormal numbers get a one in front, which is taken away again.
    let special = normal + (112 << 23);
    let small = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(F16_MIN_NORMAL)).to_bits();
    let finite = if exponent == 0 { small } else { normal };
    f32::from_bits(sign | if exponent == 0x0f80_0000 { special } else { finite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_itself_again_and_what_the_reference_says() {
        for bits in 0..=u16::MAX {
            let (element, reference) = (from_f16(bits), ::half::f16::from_bits(bits).to_f32());
            if reference.is_nan() {
                assert!(element.is_nan(), "{bits:#x}");
                assert_eq!(to_f16(element) & 0x7fff, 0x7e00);
            } else {
                assert_eq!(element.to_bits(), reference.to_bits(), "{bits:#x}");
                assert_eq!(to_f16(element), bits);
            }
        }
    }

    #[test]
    fn rounding_is_that_of_the_reference_on_a_fine_grid() {
        // A prime step visits every exponent with all kinds of lower bits.
        for bits in (0..=u32::MAX).step_by(24_593) {
            let element = f32::from_bits(bits);
            if element.is_nan() {
                assert!(from_f16(to_f16(element)).is_nan() && from_bf16(to_bf16(element)).is_nan(), "{bits:#x}");
                continue;
            }
            let in_range = element.is_infinite() || element.abs() <= 65504.0;
            let expected = if in_range { element } else { 65504.0f32.copysign(element) };
            assert_eq!(to_f16(element), ::half::f16::from_f32(expected).to_bits(), "{bits:#x}");
            assert_eq!(to_bf16(element), ::half::bf16::from_f32(element).to_bits(), "{bits:#x}");
        }
    }

    #[test]
    fn the_bytes_are_golden() {
        let elements = [1.0, -2.5, 65520.0, 1e-7, f32::INFINITY, 0.1];
        let encoded = |half| {
            let mut bytes = [0; 12];
            encode_half(Isa::Portable, half, &elements, &mut bytes).unwrap();
            bytes
        };
        assert_eq!(encoded(Half::F16), [0, 0x3c, 0, 0xc1, 0xff, 0x7b, 2, 0, 0, 0x7c, 0x66, 0x2e]);
        assert_eq!(encoded(Half::Bf16), [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x47, 0xd7, 0x33, 0x80, 0x7f, 0xcd, 0x3d]);
    }

    #[test]
    fn a_wrong_number_of_bytes_is_an_error() {
        assert!(encode_half(Isa::Portable, Half::F16, &[0.0; 3], &mut [0; 5]).is_err());
        assert!(decode_half(Isa::Portable, Half::Bf16, &[0; 7], &mut [0.0; 3]).is_err());
    }
}
