//! One head of one row, some blocks of queries: packs keys and values block by block and carries the running softmax.

use pulp::{Simd, WithSimd};

use super::Geometry;
use super::output::OutputPart;
use super::softmax::soften;
use super::tile::{multiply_keys, multiply_values, pack_keys, pack_values, padded};
use crate::kernels::cpu::transpose::{Rows, transpose};

/// Vectors of queries side by side in a tile. Two need each broadcast once for two multiply-adds.
pub(super) const QUERY_VECTORS: usize = 2;

/// One head of the tokens of a row.
#[derive(Clone, Copy)]
pub(super) struct HeadTokens<'a> {
    /// From the first element of the first token on.
    pub(super) elements: &'a [f32],
    /// Elements from one token to the next.
    pub(super) stride: usize,
    /// Elements of the head.
    pub(super) width: usize,
}

impl<'a> HeadTokens<'a> {
    /// `count` tokens from `first` on.
    fn tokens(self, first: usize, count: usize) -> impl Iterator<Item = &'a [f32]> + Clone {
        (first..first + count).map(move |token| &self.elements[token * self.stride..][..self.width])
    }
}

/// The queries from `first_query` up to `end_query` against all keys.
pub(super) struct Task<'a> {
    pub(super) geometry: Geometry,
    pub(super) query: HeadTokens<'a>,
    pub(super) key: HeadTokens<'a>,
    pub(super) value: HeadTokens<'a>,
    pub(super) first_query: usize,
    pub(super) end_query: usize,
    pub(super) scratch: &'a mut [f32],
    pub(super) output: OutputPart<'a>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { geometry, query, key, value, first_query, end_query, scratch, mut output } = self;
        let (packed_keys, scratch) = scratch.split_at_mut(geometry.packed());
        let (packed_values, scratch) = scratch.split_at_mut(geometry.packed());
        let (scores, memory) = scratch.split_at_mut(geometry.scores());
        let of_block = geometry.block_scratch();
        let blocks = (first_query..end_query).step_by(geometry.block).map(|first| QueryBlock {
            geometry,
            first,
            count: geometry.block.min(end_query - first),
        });

        for (block, memory) in blocks.clone().zip(memory.chunks_mut(of_block)) {
            if block.fits_one::<S>() {
                block.begin::<S, 1>(simd, query, memory);
            } else {
                block.begin::<S, QUERY_VECTORS>(simd, query, memory);
            }
        }
        let seen = if geometry.causal { geometry.keys.min(end_query) } else { geometry.keys };
        for first in (0..seen).step_by(geometry.key_block) {
            let count = geometry.key_block.min(seen - first);
            pack_keys::<S>(key.tokens(first, count), (count, key.width), packed_keys);
            pack_values::<S>(value.tokens(first, count), (count, value.width), packed_values);
            let packed = KeyBlock { keys: packed_keys, values: packed_values, first, count };
            for (block, memory) in blocks.clone().zip(memory.chunks_mut(of_block)) {
                if block.fits_one::<S>() {
                    block.attend::<S, 1>(simd, packed, scores, memory);
                } else {
                    block.attend::<S, QUERY_VECTORS>(simd, packed, scores, memory);
                }
            }
        }
        for (block, memory) in blocks.zip(memory.chunks_mut(of_block)) {
            if block.fits_one::<S>() {
                block.finish::<S, 1>(simd, memory, block.first - first_query, &mut output);
            } else {
                block.finish::<S, QUERY_VECTORS>(simd, memory, block.first - first_query, &mut output);
            }
        }
    }
}

/// Packed keys and values.
///
/// # Shapes
/// - `keys`: `[count, padded head_width]` in tiles, as [`pack_keys`] lays them
/// - `values`: `[head_width, count]` in tiles, as [`pack_values`] lays them
#[derive(Clone, Copy)]
struct KeyBlock<'a> {
    keys: &'a [f32],
    values: &'a [f32],
    first: usize,
    count: usize,
}

/// A block of queries.
#[derive(Clone, Copy)]
struct QueryBlock {
    geometry: Geometry,
    first: usize,
    count: usize,
}

impl QueryBlock {
    /// Whether one vector holds all queries: half the work for the rest of a row.
    fn fits_one<S: Simd>(self) -> bool {
        self.count <= S::F32_LANES
    }

    /// Packs the queries, scaled for scores in units of ln 2.
    #[inline(always)]
    fn begin<S: Simd, const V: usize>(self, simd: S, query: HeadTokens, memory: &mut [f32]) {
        let (lanes, width) = (V * S::F32_LANES, query.width);
        let packed = &mut memory[..lanes * padded(width)];
        packed[lanes * width..].fill(0.0);
        let source = Rows { elements: &query.elements[self.first * query.stride..], stride: query.stride };
        transpose(source, (self.count, width), packed, lanes);
        if self.count < lanes {
            packed.chunks_exact_mut(lanes).for_each(|element| element[self.count..].fill(0.0));
        }
        let scale = simd.splat_f32s((std::f64::consts::LOG2_E / (width as f64).sqrt()) as f32);
        for element in S::as_mut_simd_f32s(packed).0 {
            *element = simd.mul_f32s(*element, scale);
        }
        let state = State::<S, V>::of(memory, width);
        state.output.fill([simd.splat_f32s(0.0); V]);
        *state.maximum = [simd.splat_f32s(f32::NEG_INFINITY); V];
        *state.sum = [simd.splat_f32s(0.0); V];
    }

    /// Takes a block of keys into account.
    #[inline(always)]
    fn attend<S: Simd, const V: usize>(self, simd: S, packed: KeyBlock, scores: &mut [f32], memory: &mut [f32]) {
        let (lanes, width) = (V * S::F32_LANES, self.geometry.head_width);
        // Packed values are laid for all keys of the block, so what the last query does not see is hidden, not left out.
        let hiding = self.geometry.causal && packed.first + packed.count > self.first + 1;
        if hiding && packed.first >= self.first + self.count {
            return;
        }
        let state = State::<S, V>::of(memory, width);
        let flat = &mut scores[..packed.count * lanes];
        let scores = S::as_mut_simd_f32s(flat).0.as_chunks_mut::<V>().0;
        multiply_keys(simd, state.query, &packed.keys[..packed.count * padded(width)], scores);
        if hiding {
            self.hide(packed.first, lanes, flat);
        }
        let scores = S::as_mut_simd_f32s(flat).0.as_chunks_mut::<V>().0;
        let correction = soften(simd, scores, state.maximum, state.sum);
        multiply_values(simd, scores, &packed.values[..packed.count * width], correction, state.output);
    }

    /// Hides the keys that follow a query from it.
    ///
    /// # Shapes
    /// - `scores`: `[keys, lanes]`
    #[inline(always)]
    fn hide(self, first_key: usize, lanes: usize, scores: &mut [f32]) {
        for (key, scores) in (first_key..).zip(scores.chunks_exact_mut(lanes)) {
            let hidden = key.saturating_sub(self.first).min(lanes);
            scores[..hidden].fill(f32::NEG_INFINITY);
        }
    }

    /// Divides by the sums and writes the output, whose token `first` is the first of this block.
    #[inline(always)]
    fn finish<S: Simd, const V: usize>(self, simd: S, memory: &mut [f32], first: usize, output: &mut OutputPart) {
        let (lanes, width) = (V * S::F32_LANES, self.geometry.head_width);
        let state = State::<S, V>::of(memory, width);
        for (index, &sum) in state.sum.iter().enumerate() {
            let inverse = simd.div_f32s(simd.splat_f32s(1.0), sum);
            for element in state.output.iter_mut() {
                element[index] = simd.mul_f32s(element[index], inverse);
            }
        }
        // The packed queries have served: their memory takes the output, token by token.
        let (tokens, elements) = memory.split_at_mut(lanes * padded(width));
        transpose(Rows { elements, stride: lanes }, (width, self.count), tokens, width);
        for (index, token) in tokens.chunks_exact(width).take(self.count).enumerate() {
            output.token(first + index).copy_from_slice(token);
        }
    }
}

/// The memory of a block of queries, as vectors.
struct State<'a, S: Simd, const V: usize> {
    /// `[padded head_width]`
    query: &'a mut [[S::f32s; V]],
    /// `[head_width]`, not yet divided by the sums
    output: &'a mut [[S::f32s; V]],
    maximum: &'a mut [S::f32s; V],
    sum: &'a mut [S::f32s; V],
}

impl<'a, S: Simd, const V: usize> State<'a, S, V> {
    #[inline(always)]
    fn of(memory: &'a mut [f32], width: usize) -> Self {
        let (query, rest) = S::as_mut_simd_f32s(memory).0.as_chunks_mut::<V>().0.split_at_mut(padded(width));
        let (output, rest) = rest.split_at_mut(width);
        let [maximum, sum, ..] = rest else {
            unreachable!("memory of a block of queries: see Geometry::block_scratch")
        };
        Self { query, output, maximum, sum }
    }
}
