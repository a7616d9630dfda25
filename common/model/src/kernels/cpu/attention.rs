//! Attention, block by block of queries: the scores of a block stay in the cache, heads are read where they lie.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};

use super::math::{exp, sum_of};
use super::product::{Matrix, Sizes, Store, Target, multiply};
use super::storage::{elements, for_blocks};
use crate::kernels::{AttentionMask, AttentionSpec};

/// The most elements of a block of scores (1 MiB), unless one query needs more.
const SCORE_ELEMENTS: usize = 256 * 1024;

/// Scaled dot product attention of contiguous tensors.
pub(in crate::kernels) struct Attention {
    pub(in crate::kernels) spec: AttentionSpec,
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    /// # Shapes
    /// - first: `[batch, queries, heads * head_width]`
    /// - second and third: `[batch, keys, heads * head_width]`
    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_batch, queries, width) = query_layout.shape().dims3()?;
        let (_key_batch, keys, _key_width) = key_layout.shape().dims3()?;
        let query = elements(query, query_layout)?.chunks((queries * width).max(1));
        let key = elements(key, key_layout)?.chunks((keys * width).max(1));
        let value = elements(value, value_layout)?.chunks((keys * width).max(1));
        let mut output = vec![0.0; query_layout.shape().elem_count()];
        let mut scores = vec![0.0; queries.min((SCORE_ELEMENTS / keys.max(1)).max(1)) * keys];
        for (((query, key), value), output) in
            query.zip(key).zip(value).zip(output.chunks_mut((queries * width).max(1)))
        {
            for head in 0..self.spec.heads {
                let start = head * self.spec.head_width;
                let operands = (&query[start..], &key[start..], &value[start..]);
                self.attend(operands, (queries, keys), &mut scores, &mut output[start..]);
            }
        }
        Ok((CpuStorage::F32(output), query_layout.shape().clone()))
    }
}

impl Attention {
    /// One head of one row of the batch; all slices start at the head's first element.
    fn attend(
        &self,
        (query, key, value): (&[f32], &[f32], &[f32]),
        (queries, keys): (usize, usize),
        scores: &mut [f32],
        output: &mut [f32],
    ) {
        let AttentionSpec { heads, head_width, mask } = self.spec;
        let width = heads * head_width;
        let block = (scores.len() / keys.max(1)).max(1);
        let scale = 1.0 / (head_width as f32).sqrt();
        for first in (0..queries).step_by(block) {
            let rows = block.min(queries - first);
            let scores = &mut scores[..rows * keys];
            multiply(
                Sizes { rows, columns: keys, depth: head_width },
                Matrix { elements: &query[first * width..], row_stride: width, column_stride: 1 },
                Matrix { elements: key, row_stride: 1, column_stride: width },
                Target { elements: scores, row_stride: keys, store: Store::Overwrite },
            );
            for_blocks(scores, keys.max(1), |row, scores| {
                let seen = match mask {
                    AttentionMask::Causal => first + row + 1,
                    AttentionMask::None => keys,
                };
                let (seen, hidden) = scores.split_at_mut(seen);
                softmax(seen, scale);
                hidden.fill(0.0);
            });
            multiply(
                Sizes { rows, columns: head_width, depth: keys },
                Matrix { elements: scores, row_stride: keys, column_stride: 1 },
                Matrix { elements: value, row_stride: width, column_stride: 1 },
                Target { elements: &mut output[first * width..], row_stride: width, store: Store::Overwrite },
            );
        }
    }
}

/// Softmax of `scale * values` in place.
fn softmax(values: &mut [f32], scale: f32) {
    let largest = largest(values);
    values.iter_mut().for_each(|value| *value = exp((*value - largest) * scale));
    let inverse = 1.0 / sum_of(values, |value| value);
    values.iter_mut().for_each(|value| *value *= inverse);
}

/// The maximum, in eight lanes so that the compiler can vectorise it.
fn largest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |largest, &value| largest.max(value))
}
