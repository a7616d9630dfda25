//! What holds for any elements and any bytes: bounds of errors, equal bits at both ends and on all instruction sets.

use asyncdiff_plan::{DELTA_GROUP, DeltaBits};
use proptest::prelude::*;

use super::{Half, decode_delta, decode_half, encode_delta, encode_half};
use crate::kernels::Isa;

const BITS: [DeltaBits; 2] = [DeltaBits::Four, DeltaBits::Eight];
const HALVES: [Half; 2] = [Half::Bf16, Half::F16];

/// f32 of all magnitudes; one in twenty is anything at all: infinite, NaN, subnormal.
fn any_element() -> impl Strategy<Value = f32> {
    prop_oneof![
        19 => (-1.0f32..1.0, -20i32..20).prop_map(|(mantissa, exponent)| mantissa * 2.0f32.powi(exponent)),
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

fn finite_elements() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        (-1.0f32..1.0, -9i32..9).prop_map(|(mantissa, exponent)| mantissa * 2.0f32.powi(exponent)),
        0..300,
    )
}

fn encode(isa: Isa, bits: DeltaBits, elements: &[f32], register: &mut [f32]) -> Vec<u8> {
    let mut bytes = vec![0; bits.bytes(elements.len() as u64) as usize];
    encode_delta(isa, bits, elements, register, &mut bytes).unwrap();
    bytes
}

fn decode(isa: Isa, bits: DeltaBits, base: &[f32], bytes: &[u8]) -> Vec<f32> {
    let mut elements = vec![0.0; base.len()];
    decode_delta(isa, bits, base, bytes, &mut elements).unwrap();
    elements
}

/// All NaN are one: their payloads mean nothing.
fn bits_of(elements: &[f32]) -> Vec<u32> {
    elements.iter().map(|element| if element.is_nan() { u32::MAX } else { element.to_bits() }).collect()
}

/// Half of the step between two numbers that a group can have, and what f32 loses at this magnitude.
fn bound(bits: DeltaBits, bytes: &[u8], index: usize, element: f32) -> f32 {
    let group = index / DELTA_GROUP as usize;
    let scale = f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * group], bytes[2 * group + 1]])) << 16);
    assert!(scale.is_finite(), "{bits:?}");
    0.5001 * scale + 4.0 * f32::EPSILON * element.abs().max(scale * 128.0)
}

/// A step of a walk: numbers around zero from a seed.
fn noise(seed: u64, count: usize) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count).map(move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

proptest! {
    #[test]
    fn no_element_is_off_by_more_than_half_a_scale(elements in finite_elements(), seed in any::<u64>()) {
        for bits in BITS {
            let mut register: Vec<f32> = noise(seed, elements.len()).collect();
            let base = register.clone();
            let bytes = encode(Isa::best(), bits, &elements, &mut register);
            let decoded = decode(Isa::best(), bits, &base, &bytes);
            prop_assert_eq!(bits_of(&decoded), bits_of(&register));
            for (index, (&element, &found)) in elements.iter().zip(&decoded).enumerate() {
                prop_assert!((element - found).abs() <= bound(bits, &bytes, index, element), "{} became {}", element, found);
            }
        }
    }

    #[test]
    fn errors_do_not_add_up_over_a_walk(count in 1usize..200, seed in any::<u64>()) {
        for bits in BITS {
            let mut elements: Vec<f32> = noise(seed, count).collect();
            let (mut register, mut received) = (elements.clone(), elements.clone());
            for step in 1..=50 {
                for (element, change) in elements.iter_mut().zip(noise(seed ^ step, count)) {
                    *element += 0.1 * change;
                }
                let bytes = encode(Isa::best(), bits, &elements, &mut register);
                received = decode(Isa::best(), bits, &received, &bytes);
                for (index, (&element, &found)) in elements.iter().zip(&received).enumerate() {
                    // The last step's bound alone, whatever the steps before lost.
                    prop_assert!((element - found).abs() <= bound(bits, &bytes, index, element), "step {}", step);
                }
            }
        }
    }

    #[test]
    fn all_instruction_sets_give_the_same_bits(
        elements in prop::collection::vec(any_element(), 0..300),
        base in prop::collection::vec(any_element(), 300),
    ) {
        let base = &base[..elements.len()];
        for bits in BITS {
            let all = Isa::available().into_iter().map(|isa| {
                let mut register = base.to_vec();
                let bytes = encode(isa, bits, &elements, &mut register);
                let decoded = decode(isa, bits, base, &bytes);
                assert_eq!(bits_of(&decoded), bits_of(&register), "{isa:?}");
                (bytes, bits_of(&decoded))
            });
            let all: Vec<_> = all.collect();
            prop_assert!(all.iter().all(|one| *one == all[0]));
        }
        for half in HALVES {
            let all = Isa::available().into_iter().map(|isa| {
                let (mut bytes, mut decoded) = (vec![0; 2 * elements.len()], vec![0.0; elements.len()]);
                encode_half(isa, half, &elements, &mut bytes).unwrap();
                decode_half(isa, half, &bytes, &mut decoded).unwrap();
                (bytes, bits_of(&decoded))
            });
            let all: Vec<_> = all.collect();
            prop_assert!(all.iter().all(|one| *one == all[0]));
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_its_group(
        elements in prop::collection::vec(any_element(), 0..300),
        base in prop::collection::vec(any_element(), 300),
    ) {
        for bits in BITS {
            let mut register = base[..elements.len()].to_vec();
            encode(Isa::best(), bits, &elements, &mut register);
            for (group, (elements, found)) in elements.chunks(64).zip(register.chunks(64)).enumerate() {
                let small = |numbers: &[f32]| numbers.iter().all(|number| number.abs() < 1e30);
                let base = &base[64 * group..][..elements.len()];
                let fits = small(elements) && base.iter().all(|number| !number.is_finite() || number.abs() < 1e30);
                prop_assert!(!fits || found.iter().all(|element| element.is_finite()));
            }
        }
    }

    #[test]
    fn any_bytes_are_elements_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        base in prop::collection::vec(any_element(), 0..400),
    ) {
        for bits in BITS {
            let mut elements = vec![0.0; base.len()];
            let decoded = decode_delta(Isa::best(), bits, &base, &bytes, &mut elements);
            prop_assert_eq!(decoded.is_ok(), bits.bytes(base.len() as u64) == bytes.len() as u64);
            // As many bytes as are wanted, so that all of them are decoded too.
            let wanted = bits.bytes(base.len() as u64) as usize;
            let repeated: Vec<u8> = bytes.iter().copied().cycle().take(if bytes.is_empty() { 0 } else { wanted }).collect();
            prop_assert!(repeated.len() < wanted || decode_delta(Isa::best(), bits, &base, &repeated, &mut elements).is_ok());
        }
        for half in HALVES {
            let mut elements = vec![0.0; base.len()];
            let decoded = decode_half(Isa::best(), half, &bytes, &mut elements);
            prop_assert_eq!(decoded.is_ok(), 2 * base.len() == bytes.len());
        }
    }
}
