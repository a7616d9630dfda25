//! Quantised differences: 8 or 4 bits for each element, and a scale for each group of 64.
//!
//! ```text
//!   bytes:  scale of group 0, of group 1, …  (bf16)  │  codes of group 0, of group 1, …
//!   8 bits: a byte each                  4 bits: element i in the lower half of byte i, element i + 32 in its upper half
//! ```
//!
//! A scale is the greatest difference of its group by 127 (or 7), rounded up, so that no code is out of range and no element is off by more than half
//! a scale. What the receiver makes of the codes is the sender's next register, so an error is part of the next difference.
//!
//! A difference that is not finite makes its group NaN at the receiver: it must not pass for a number there. Where a register is not finite,
//! the next difference is from zero, so that a value that is finite again is finite there too.

use asyncdiff_plan::{DELTA_GROUP, DELTA_SCALE_BYTES, DeltaBits};
use pulp::{Simd, WithSimd};

use super::EncodingError;
use super::error::check_length;
use crate::kernels::Isa;

const GROUP: usize = DELTA_GROUP as usize;
const SCALE: usize = DELTA_SCALE_BYTES as usize;

/// Adding 1.5 * 2^23 rounds to the nearest even integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// The scale of a group that hardly differs: 2^-100, whose inverse is finite. Errors below it are far below every hidden state's own rounding.
const LEAST_SCALE: u32 = 27 << 23;

const INFINITY: u32 = 0x7f80_0000;
const NAN_SCALE: u16 = 0x7fc0;

/// Writes how elements differ from a register, and makes the register what a receiver will have.
///
/// # Shapes
/// - `elements` and `register`: any, the same
/// - `bytes`: as many as [`DeltaBits::bytes`] says
pub fn encode_delta(
    isa: Isa,
    bits: DeltaBits,
    elements: &[f32],
    register: &mut [f32],
    bytes: &mut [u8],
) -> Result<(), EncodingError> {
    check(bits, elements.len(), register.len(), bytes.len())?;
    let (scales, codes) = bytes.split_at_mut(elements.len().div_ceil(GROUP) * SCALE);
    let scales = scales.as_chunks_mut().0;
    match bits {
        DeltaBits::Four => isa.dispatch(Encode::<4> { elements, register, scales, codes }),
        DeltaBits::Eight => isa.dispatch(Encode::<8> { elements, register, scales, codes }),
    }
    Ok(())
}

/// Adds differences to what they are based on. The same bits as the sender's register has after [`encode_delta`].
///
/// # Shapes
/// - `base` and `elements`: any, the same
/// - `bytes`: as many as [`DeltaBits::bytes`] says
pub fn decode_delta(
    isa: Isa,
    bits: DeltaBits,
    base: &[f32],
    bytes: &[u8],
    elements: &mut [f32],
) -> Result<(), EncodingError> {
    check(bits, elements.len(), base.len(), bytes.len())?;
    let (scales, codes) = bytes.split_at(elements.len().div_ceil(GROUP) * SCALE);
    let scales = scales.as_chunks().0;
    match bits {
        DeltaBits::Four => isa.dispatch(Decode::<4> { base, scales, codes, elements }),
        DeltaBits::Eight => isa.dispatch(Decode::<8> { base, scales, codes, elements }),
    }
    Ok(())
}

fn check(bits: DeltaBits, elements: usize, registers: usize, bytes: usize) -> Result<(), EncodingError> {
    check_length(elements, bits.bytes(elements as u64), bytes)?;
    check_length(elements, elements as u64 * 4, registers * 4)
}

struct Encode<'a, const BITS: usize> {
    elements: &'a [f32],
    register: &'a mut [f32],
    scales: &'a mut [[u8; SCALE]],
    codes: &'a mut [u8],
}

impl<const BITS: usize> WithSimd for Encode<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        // Whole groups as arrays, so that the compiler knows their length.
        let (groups, last) = self.elements.as_chunks::<GROUP>();
        let (registers, last_register) = self.register.as_chunks_mut::<GROUP>();
        let (codes, last_codes) = self.codes.split_at_mut(groups.len() * GROUP * BITS / 8);
        let (scales, last_scale) = self.scales.split_at_mut(groups.len());
        let places = scales.iter_mut().zip(codes.chunks_exact_mut(GROUP * BITS / 8));
        for ((elements, register), (scale, codes)) in groups.iter().zip(registers).zip(places) {
            *scale = encode_group::<BITS>(elements, register, codes).to_le_bytes();
        }
        if let [scale] = last_scale {
            *scale = encode_group::<BITS>(last, last_register, last_codes).to_le_bytes();
        }
    }
}

struct Decode<'a, const BITS: usize> {
    base: &'a [f32],
    scales: &'a [[u8; SCALE]],
    codes: &'a [u8],
    elements: &'a mut [f32],
}

impl<const BITS: usize> WithSimd for Decode<'_, BITS> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (groups, last) = self.elements.as_chunks_mut::<GROUP>();
        let (bases, last_base) = self.base.as_chunks::<GROUP>();
        let (codes, last_codes) = self.codes.split_at(groups.len() * GROUP * BITS / 8);
        let (scales, last_scale) = self.scales.split_at(groups.len());
        let coded = scales.iter().zip(codes.chunks_exact(GROUP * BITS / 8));
        for ((elements, base), (scale, codes)) in groups.iter_mut().zip(bases).zip(coded) {
            decode_group::<BITS>(base, u16::from_le_bytes(*scale), codes, elements);
        }
        if let [scale] = last_scale {
            decode_group::<BITS>(last_base, u16::from_le_bytes(*scale), last_codes, last);
        }
    }
}

/// Returns the scale. A group has at most [`GROUP`] elements.
#[inline(always)]
fn encode_group<const BITS: usize>(elements: &[f32], register: &mut [f32], codes: &mut [u8]) -> u16 {
    let mut differences = [0.0f32; GROUP];
    let mut greatest = 0;
    for ((difference, element), register) in differences.iter_mut().zip(elements).zip(register.iter_mut()) {
        *register = finite(*register);
        *difference = element - *register;
        greatest = greatest.max(difference.abs().to_bits());
    }
    if greatest >= INFINITY {
        codes.fill(0);
        register.fill(f32::NAN);
        return NAN_SCALE;
    }
    let limit = if BITS == 8 { 127.0 } else { 7.0 };
    let least = (f32::from_bits(greatest) / limit).to_bits().max(LEAST_SCALE);
    let scale_bits = ((least + 0xffff) >> 16) as u16;
    let scale = widen(scale_bits);
    let inverse = 1.0 / scale;
    let mut quantised = [0u8; GROUP];
    for ((code, difference), register) in quantised.iter_mut().zip(&differences).zip(register) {
        let rounded = difference * inverse + ROUND;
        // The lowest bits of the sum are those of the integer, in two's complement.
        *code = rounded.to_bits() as u8;
        *register += scale * (rounded - ROUND);
    }
    if BITS == 8 {
        codes.copy_from_slice(&quantised[..codes.len()]);
    } else {
        let (lower, upper) = quantised.split_at(codes.len());
        for ((code, lower), upper) in codes.iter_mut().zip(lower).zip(upper) {
            *code = lower & 0xf | upper << 4;
        }
    }
    scale_bits
}

#[inline(always)]
fn decode_group<const BITS: usize>(base: &[f32], scale: u16, codes: &[u8], elements: &mut [f32]) {
    let scale = widen(scale);
    let decoded = |base: f32, code: i8| finite(base) + scale * f32::from(code);
    if BITS == 8 {
        for ((element, &base), &code) in elements.iter_mut().zip(base).zip(codes) {
            *element = decoded(base, code as i8);
        }
    } else {
        let ((lower, upper), (base, upper_base)) = (elements.split_at_mut(codes.len()), base.split_at(codes.len()));
        for ((element, &base), &code) in lower.iter_mut().zip(base).zip(codes) {
            *element = decoded(base, (code << 4) as i8 >> 4);
        }
        for ((element, &base), &code) in upper.iter_mut().zip(upper_base).zip(codes) {
            *element = decoded(base, code as i8 >> 4);
        }
    }
}

#[inline(always)]
fn widen(scale: u16) -> f32 {
    f32::from_bits(u32::from(scale) << 16)
}

#[inline(always)]
fn finite(element: f32) -> f32 {
    if element.abs().to_bits() < INFINITY { element } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_golden() {
        let elements: Vec<f32> = (0..66).map(|index| index as f32 - 31.5).collect();
        let encoded = |bits: DeltaBits| {
            let (mut register, mut bytes) = (vec![1.0; 66], vec![0; bits.bytes(66) as usize]);
            encode_delta(Isa::Portable, bits, &elements, &mut register, &mut bytes).unwrap();
            (bytes, register)
        };
        let (bytes, register) = encoded(DeltaBits::Eight);
        // 32.5 / 127 rounded up to bf16 is 0.2578125, of which -32.5 is -126.06; 32.5 / 7 is 4.65625, of which it is -6.98.
        assert_eq!(bytes[..8], [0x84, 0x3e, 0x84, 0x3e, 0x82, 0x86, 0x8a, 0x8e]);
        assert_eq!((bytes.len(), register[0], register[65]), (70, -31.484375, 33.484375));
        let (bytes, register) = encoded(DeltaBits::Four);
        assert_eq!(bytes[..6], [0x95, 0x40, 0x95, 0x40, 0x09, 0x09]);
        assert_eq!((bytes.len(), register[0], bytes[36]), (37, -31.59375, 0x77));
    }

    #[test]
    fn what_is_not_finite_stays_in_its_group_and_goes_when_it_is_finite_again() {
        for bits in [DeltaBits::Four, DeltaBits::Eight] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut elements = vec![2.0; 200];
                let (mut register, mut bytes) = (vec![1.5; 200], vec![0; bits.bytes(200) as usize]);
                elements[70] = bad;
                encode_delta(Isa::best(), bits, &elements, &mut register, &mut bytes).unwrap();
                let bad_group = |index: &usize| (64..128).contains(index);
                assert!((0..200).all(|index| register[index].is_nan() == bad_group(&index)));
                let mut received = vec![0.0; 200];
                decode_delta(Isa::best(), bits, &[1.5; 200], &bytes, &mut received).unwrap();
                assert!((0..200).all(|index| received[index].is_nan() == bad_group(&index)));
                elements[70] = 2.0;
                encode_delta(Isa::best(), bits, &elements, &mut register, &mut bytes).unwrap();
                let base = std::mem::replace(&mut received, vec![0.0; 200]);
                decode_delta(Isa::best(), bits, &base, &bytes, &mut received).unwrap();
                assert_eq!(received, register);
                assert!(received.iter().all(|element| (element - 2.0).abs() < 0.2), "{received:?}");
            }
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_or_registers_is_an_error() {
        let (elements, mut bytes) = ([0.0; 65], [0; 69]);
        let eight = DeltaBits::Eight;
        assert!(encode_delta(Isa::Portable, eight, &elements, &mut [0.0; 65], &mut bytes).is_ok());
        assert!(encode_delta(Isa::Portable, eight, &elements, &mut [0.0; 64], &mut bytes).is_err());
        assert!(encode_delta(Isa::Portable, eight, &elements, &mut [0.0; 65], &mut bytes[1..]).is_err());
        assert!(decode_delta(Isa::Portable, eight, &[0.0; 65], &bytes[1..], &mut [0.0; 65]).is_err());
        assert!(decode_delta(Isa::Portable, eight, &[0.0; 64], &bytes, &mut [0.0; 65]).is_err());
    }
}
