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
    let (left, right) = (read(memories, format, left, m * k), read(memories, format, right, n * k));
    let mut sums = Vec::with_capacity(m * n);
    for row in left.chunks_exact(k) {
        sums.extend(right.chunks_exact(k).map(|column| dot(row, column)));
    }
    write(memories, format, target, &sums);
}

/// Elements that a library reads.
///
/// # Panics
/// When they lie outside of their memory.
pub(super) fn read(memories: &Memories, format: Format, place: Place, elements: usize) -> Vec<f32> {
    let bytes = memories.bytes(place.memory).get(place.offset..place.offset + elements * element_bytes(format));
    decode(format, bytes.unwrap_or_else(|| panic!("{elements} elements of {place:?}")))
}

/// What a library writes.
///
/// # Panics
/// When it lies outside of its memory, is NaN, or the memory is read only.
pub(super) fn write(memories: &mut Memories, format: Format, place: Place, values: &[f32]) {
    assert!(values.iter().all(|value| value.is_finite()), "made of what nobody wrote: {place:?}");
    assert!(!matches!(place.memory, Memory::Input(_) | Memory::Parameters), "a write to what is read only: {place:?}");
    let bytes = encode(format, values);
    let target = memories.bytes_mut(place.memory).get_mut(place.offset..place.offset + bytes.len());
    target.unwrap_or_else(|| panic!("{} elements of {place:?}", values.len())).copy_from_slice(&bytes);
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
