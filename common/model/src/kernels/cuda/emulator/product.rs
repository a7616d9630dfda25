//! Products by plain loops, where a GPU has a library for them.

use half::{bf16, f16};

use super::super::launch::{Memory, Place, Product};
use super::super::pack::element_bytes;
use super::memory::Memories;
use crate::kernels::Format;

/// Independent sums, so that the compiler may take a vector of them.
const LANES: usize = 16;

/// # Panics
/// When an operand lies outside of its memory or is NaN, or when the target is read only.
pub(super) fn run(product: &Product, format: Format, memories: &mut Memories) {
    let Product { m, n, k, left, right, target } = *product;
    let element = element_bytes(format);
    let read = |place: Place, elements: usize| {
        let bytes = memories.bytes(place.memory).get(place.offset..place.offset + elements * element);
        decode(format, bytes.unwrap_or_else(|| panic!("{place:?} in {product:?}")))
    };
    let (left, right) = (read(left, m * k), read(right, n * k));
    let mut sums = Vec::with_capacity(m * n);
    for row in left.chunks_exact(k) {
        sums.extend(right.chunks_exact(k).map(|column| dot(row, column)));
    }
    assert!(sums.iter().all(|sum| sum.is_finite()), "a product of what nobody wrote: {product:?}");
    let bytes = encode(format, &sums);
    assert!(
        !matches!(target.memory, Memory::Input(_) | Memory::Parameters),
        "a write to what is read only: {product:?}"
    );
    let place = memories.bytes_mut(target.memory).get_mut(target.offset..target.offset + bytes.len());
    place.unwrap_or_else(|| panic!("{target:?} in {product:?}")).copy_from_slice(&bytes);
}

fn dot(one: &[f32], other: &[f32]) -> f32 {
    let ((ones, one_rest), (others, other_rest)) = (one.as_chunks::<LANES>(), other.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (one, other) in ones.iter().zip(others) {
        for ((sum, one), other) in sums.iter_mut().zip(one).zip(other) {
            *sum += one * other;
        }
    }
    let rest: f32 = one_rest.iter().zip(other_rest).map(|(one, other)| one * other).sum();
    sums.iter().sum::<f32>() + rest
}

pub(crate) fn decode(format: Format, bytes: &[u8]) -> Vec<f32> {
    match format {
        Format::Bf16 => bytes.as_chunks().0.iter().map(|&bytes| bf16::from_ne_bytes(bytes).to_f32()).collect(),
        Format::F16 => bytes.as_chunks().0.iter().map(|&bytes| f16::from_ne_bytes(bytes).to_f32()).collect(),
        Format::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_ne_bytes(bytes)).collect(),
    }
}

pub(crate) fn encode(format: Format, values: &[f32]) -> Vec<u8> {
    match format {
        Format::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_ne_bytes()).collect(),
        Format::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_ne_bytes()).collect(),
        Format::F32 => values.iter().flat_map(|value| value.to_ne_bytes()).collect(),
    }
}
