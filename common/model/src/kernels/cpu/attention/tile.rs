//! The two products of an attention, in tiles of accumulators that registers hold.
//!
//! Vectors run over queries, `V` of them side by side; a tile has `N` keys (scores) or `N` elements of a head (output), which are
//! broadcast one by one.

use std::ops::Range;

use pulp::Simd;

/// Elements of a head that packed keys keep together. Copies of four are one instruction; transposing single elements is many.
const TOGETHER: usize = 4;

/// Elements of a packed head: padded with zeros, so that it is cut without a rest.
pub(super) fn padded(head_width: usize) -> usize {
    head_width.next_multiple_of(TOGETHER)
}

/// The scores of a block of keys.
///
/// # Shapes
/// - `query`: `[padded head_width]` of vectors
/// - `keys`: `[keys, padded head_width]` in tiles, as [`pack_keys`] lays them
/// - `scores`: `[keys]` of vectors
#[inline(always)]
pub(super) fn multiply_keys<S: Simd, const V: usize>(
    simd: S,
    query: &[[S::f32s; V]],
    keys: &[f32],
    scores: &mut [[S::f32s; V]],
) {
    for tile in tiles::<S>(scores.len()) {
        let keys = &keys[tile.start * query.len()..tile.end * query.len()];
        let scores = &mut scores[tile];
        match scores.len() {
            12 => score_tile::<S, V, 12>(simd, query, keys, scores),
            8 => score_tile::<S, V, 8>(simd, query, keys, scores),
            6 => score_tile::<S, V, 6>(simd, query, keys, scores),
            4 => score_tile::<S, V, 4>(simd, query, keys, scores),
            2 => score_tile::<S, V, 2>(simd, query, keys, scores),
            _ => score_tile::<S, V, 1>(simd, query, keys, scores),
        }
    }
}

/// `output * correction + values * weights`.
///
/// # Shapes
/// - `weights`: `[keys]` of vectors
/// - `values`: `[head_width, keys]` in tiles, as [`pack_values`] lays them
/// - `output`: `[head_width]` of vectors
#[inline(always)]
pub(super) fn multiply_values<S: Simd, const V: usize>(
    simd: S,
    weights: &[[S::f32s; V]],
    values: &[f32],
    correction: [S::f32s; V],
    output: &mut [[S::f32s; V]],
) {
    for tile in tiles::<S>(output.len()) {
        let values = &values[tile.start * weights.len()..tile.end * weights.len()];
        let output = &mut output[tile];
        match output.len() {
            12 => value_tile::<S, V, 12>(simd, weights, values, correction, output),
            8 => value_tile::<S, V, 8>(simd, weights, values, correction, output),
            6 => value_tile::<S, V, 6>(simd, weights, values, correction, output),
            4 => value_tile::<S, V, 4>(simd, weights, values, correction, output),
            2 => value_tile::<S, V, 2>(simd, weights, values, correction, output),
            _ => value_tile::<S, V, 1>(simd, weights, values, correction, output),
        }
    }
}

/// Copies keys tile by tile: for each [`TOGETHER`] elements of the head those of all keys of the tile.
#[inline(always)]
pub(super) fn pack_keys<'a, S: Simd>(
    mut tokens: impl Iterator<Item = &'a [f32]>,
    (count, width): (usize, usize),
    packed: &mut [f32],
) {
    for tile in tiles::<S>(count) {
        let packed = &mut packed[tile.start * padded(width)..tile.end * padded(width)];
        let tokens = tokens.by_ref().take(tile.len());
        match tile.len() {
            12 => pack_key_tile::<12>(tokens, packed),
            8 => pack_key_tile::<8>(tokens, packed),
            6 => pack_key_tile::<6>(tokens, packed),
            4 => pack_key_tile::<4>(tokens, packed),
            2 => pack_key_tile::<2>(tokens, packed),
            _ => pack_key_tile::<1>(tokens, packed),
        }
    }
}

#[inline(always)]
fn pack_key_tile<'a, const N: usize>(tokens: impl Iterator<Item = &'a [f32]>, packed: &mut [f32]) {
    let packed = packed.as_chunks_mut::<TOGETHER>().0.as_chunks_mut::<N>().0;
    for (index, token) in tokens.enumerate() {
        let (whole, rest) = token.as_chunks::<TOGETHER>();
        for (packed, elements) in packed.iter_mut().zip(whole) {
            packed[index] = *elements;
        }
        if let (false, Some(packed)) = (rest.is_empty(), packed.last_mut()) {
            packed[index] = [0.0; TOGETHER];
            packed[index][..rest.len()].copy_from_slice(rest);
        }
    }
}

/// Copies values tile by tile: for each tile of the head's elements those of all tokens.
#[inline(always)]
pub(super) fn pack_values<'a, S: Simd>(
    tokens: impl Iterator<Item = &'a [f32]> + Clone,
    (count, width): (usize, usize),
    packed: &mut [f32],
) {
    for tile in tiles::<S>(width) {
        let packed = &mut packed[tile.start * count..tile.end * count];
        match tile.len() {
            12 => pack_value_tile::<12>(tokens.clone(), tile.start, packed),
            8 => pack_value_tile::<8>(tokens.clone(), tile.start, packed),
            6 => pack_value_tile::<6>(tokens.clone(), tile.start, packed),
            4 => pack_value_tile::<4>(tokens.clone(), tile.start, packed),
            2 => pack_value_tile::<2>(tokens.clone(), tile.start, packed),
            _ => pack_value_tile::<1>(tokens.clone(), tile.start, packed),
        }
    }
}

#[inline(always)]
fn pack_value_tile<'a, const N: usize>(tokens: impl Iterator<Item = &'a [f32]>, first: usize, packed: &mut [f32]) {
    for (packed, token) in packed.as_chunks_mut::<N>().0.iter_mut().zip(tokens) {
        packed.copy_from_slice(&token[first..][..N]);
    }
}

/// Cuts `total` into tiles: as many of the largest as fit, then powers of two.
///
/// The largest fills the registers: two vectors each, with two vectors of queries and a broadcast beside them. With 12 (or 6)
/// there are 24 (12) independent multiply-adds, where the CPUs at hand need 8 to 10 to hide their latency. On Arm, keys are not broadcast:
/// a multiply-add takes one lane of a vector, so those of 12 keys would have to stay in registers too, and 8 fill them.
#[inline(always)]
fn tiles<S: Simd>(total: usize) -> impl Iterator<Item = Range<usize>> {
    let largest = match S::REGISTER_COUNT {
        32.. if S::F32_LANES > TOGETHER => 12,
        32.. => 8,
        _ => 6,
    };
    let mut end = 0;
    std::iter::from_fn(move || {
        let rest = total - end;
        if rest == 0 {
            return None;
        }
        let start = end;
        end += if rest >= largest { largest } else { 1 << rest.ilog2() };
        Some(start..end)
    })
}

#[inline(always)]
fn score_tile<S: Simd, const V: usize, const N: usize>(
    simd: S,
    query: &[[S::f32s; V]],
    keys: &[f32],
    scores: &mut [[S::f32s; V]],
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; N];
    let keys = keys.as_chunks::<TOGETHER>().0.as_chunks::<N>().0;
    for (query, keys) in query.as_chunks::<TOGETHER>().0.iter().zip(keys) {
        for (element, query) in query.iter().enumerate() {
            for (sums, key) in sums.iter_mut().zip(keys) {
                let key = simd.splat_f32s(key[element]);
                for (sum, &query) in sums.iter_mut().zip(query) {
                    *sum = simd.mul_add_e_f32s(key, query, *sum);
                }
            }
        }
    }
    scores.copy_from_slice(&sums);
}

#[inline(always)]
fn value_tile<S: Simd, const V: usize, const N: usize>(
    simd: S,
    weights: &[[S::f32s; V]],
    values: &[f32],
    correction: [S::f32s; V],
    output: &mut [[S::f32s; V]],
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; N];
    sums.copy_from_slice(output);
    for sums in &mut sums {
        for (sum, &correction) in sums.iter_mut().zip(&correction) {
            *sum = simd.mul_f32s(*sum, correction);
        }
    }
    for (weights, values) in weights.iter().zip(values.as_chunks::<N>().0) {
        for (sums, &value) in sums.iter_mut().zip(values) {
            let value = simd.splat_f32s(value);
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = simd.mul_add_e_f32s(value, weight, *sum);
            }
        }
    }
    output.copy_from_slice(&sums);
}
