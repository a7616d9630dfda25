//! Scaled dot product attention, tiled with a running softmax: scores never leave the caches of a core.
//!
//! ```text
//! task = one head of one row, some blocks of queries          (tasks are shared out among threads)
//!   for each block of keys: pack its keys and values
//!     for each block of queries: scores ─► maximum, exp2, sum ─► output = output * correction + values * weights
//!   divide, transpose, store
//! ```
//!
//! Flash attention's scheme (Dao et al., arXiv 2205.14135) with the online softmax of Milakov and Gimelshein (arXiv 1805.02867).
//! Vectors run over queries, so that nothing is summed across lanes and any head width fills them.

mod output;
mod softmax;
mod task;
#[cfg(test)]
mod tests;
mod tile;

use std::sync::atomic::{AtomicUsize, Ordering};

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::threads;

use output::SharedOutput;
use task::{HeadTokens, QUERY_VECTORS, Task};
use tile::padded;

/// Elements that a thread's operands should stay below, so that its second-level cache (1 MiB and more) holds them.
const CACHE_ELEMENTS: usize = 192 * 1024;

/// Keys in a block. More of them amortise loading and correcting the output; the scores should stay in the first-level cache.
const KEYS: usize = 96;

/// Keys in a block of wide heads, whose keys and values are to leave space for queries in the second-level cache.
const KEYS_OF_WIDE_HEADS: usize = 48;

/// From this width on heads are wide.
const WIDE_HEAD: usize = 160;

/// The most blocks of queries that share packed keys and values; beyond that packing is below 1 % of the time.
const MOST_QUERY_BLOCKS: usize = 16;

/// Pairs of multiply-adds that take as long as one element of a pass over memory, roughly.
const PRODUCTS_PER_ELEMENT: usize = 16;

/// Elements of a cache line. Scratch memory is aligned to it: a vector that crosses lines takes two loads.
const LINE: usize = 16;

/// What an attention is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttentionSpec {
    /// Heads side by side in a token.
    pub heads: usize,
    /// Elements of a head.
    pub head_width: usize,
    /// Whether a query sees only the keys up to its own position.
    pub causal: bool,
}

/// Where tokens lie: token `t` of row `r` starts at element `(r * tokens + t) * stride + offset`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    /// The buffer, which queries, keys and values may share.
    pub elements: &'a [f32],
    /// Elements before the first token.
    pub offset: usize,
    /// Elements from one token to the next.
    pub stride: usize,
}

/// The operands of [`Attention::run`].
///
/// # Shapes
/// - `query`: `[rows, queries, heads * head_width]`, strided
/// - `key` and `value`: `[rows, keys, heads * head_width]`, strided
/// - `scratch`: at least [`Attention::scratch_floats`]; its content is of no account
/// - `output`: `[rows, queries, heads * head_width]`
pub(crate) struct AttentionCall<'a> {
    /// The batch.
    pub rows: usize,
    /// Queries in a row.
    pub queries: usize,
    /// Keys in a row.
    pub keys: usize,
    /// Not scaled.
    pub query: Strided<'a>,
    pub key: Strided<'a>,
    pub value: Strided<'a>,
    pub scratch: &'a mut [f32],
    pub output: &'a mut [f32],
}

/// Scaled dot product attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    spec: AttentionSpec,
    isa: Isa,
    /// Queries in a block.
    block: usize,
}

impl Attention {
    /// # Panics
    /// When there are no heads or they have no elements.
    pub(crate) fn prepare(spec: AttentionSpec, isa: Isa) -> Self {
        assert!(spec.heads > 0 && spec.head_width > 0, "an attention without heads");
        Self { spec, isa, block: QUERY_VECTORS * isa.dispatch(Lanes) }
    }

    /// Elements of scratch memory that [`Self::run`] needs for as many threads as it has when this is called. With less, down
    /// to what one thread needs, fewer threads work.
    pub(crate) fn scratch_floats(&self, rows: usize, queries: usize, keys: usize) -> usize {
        let tasks = rows * self.spec.heads * queries.div_ceil(self.block);
        let workers = rayon::current_num_threads().min(tasks.max(1));
        LINE + workers * self.geometry(queries, keys, 1).scratch()
    }

    /// Softmax of the scaled products of queries and keys, times the values.
    ///
    /// # Panics
    /// When there are queries but no keys, or a buffer is too short.
    pub(crate) fn run(&self, call: AttentionCall) {
        let AttentionCall { rows, queries, keys, query, key, value, scratch, output } = call;
        let width = self.spec.heads * self.spec.head_width;
        assert_eq!(output.len(), rows * queries * width, "output of an attention");
        if output.is_empty() {
            return;
        }
        assert!(keys > 0, "an attention without keys");
        for (operand, tokens) in [(query, queries), (key, keys), (value, keys)] {
            let end = (rows * tokens - 1) * operand.stride + operand.offset + width;
            assert!(end <= operand.elements.len(), "operand of an attention ends at {end}");
        }

        let one = self.geometry(queries, keys, 1).scratch();
        let aligned = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let scratch = &mut scratch[aligned..];
        assert!(scratch.len() >= one, "scratch memory of an attention");
        // A pass over this many elements takes about as long as the products.
        let workers = if threads::pay(rows * queries * keys * width / PRODUCTS_PER_ELEMENT) {
            rayon::current_num_threads()
        } else {
            1
        };
        let workers = workers.min(scratch.len() / one);

        let geometry = self.geometry(queries, keys, rows * workers);
        let groups = geometry.groups();
        let heads = self.spec.heads;
        let tasks = rows * heads * groups;
        let output = SharedOutput::new(output, width, self.spec.head_width);
        let next = AtomicUsize::new(0);
        let work = |scratch: &mut [f32]| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= tasks {
                    return;
                }
                // The groups of a head one after another: its keys and values stay in the caches.
                let (group, head, row) = (index % groups, index / groups % heads, index / groups / heads);
                let first = group * geometry.group * geometry.block;
                let end = queries.min(first + geometry.group * geometry.block);
                self.isa.dispatch(Task {
                    geometry,
                    query: self.head(query, row * queries, head),
                    key: self.head(key, row * keys, head),
                    value: self.head(value, row * keys, head),
                    first_query: first,
                    end_query: end,
                    scratch,
                    // SAFETY: each index is drawn once from the counter, and the tasks of different indices have different
                    // heads or different queries.
                    output: unsafe { output.part(row * queries + first, row * queries + end, head) },
                });
            }
        };
        if workers > 1 {
            scratch[..workers * one].par_chunks_exact_mut(one).with_max_len(1).for_each(work);
        } else {
            work(&mut scratch[..one]);
        }
    }

    fn geometry(&self, queries: usize, keys: usize, workers: usize) -> Geometry {
        let AttentionSpec { heads, head_width, causal } = self.spec;
        let key_block = keys.clamp(1, if head_width < WIDE_HEAD { KEYS } else { KEYS_OF_WIDE_HEADS });
        let mut geometry = Geometry { head_width, causal, queries, keys, block: self.block, key_block, group: 1 };
        let (fixed, of_block) = (geometry.shared_scratch(), geometry.block_scratch());
        let fitting = (CACHE_ELEMENTS.saturating_sub(fixed) / of_block).clamp(1, MOST_QUERY_BLOCKS);
        // Two tasks a thread and more, so that none waits long for the last one.
        let spread =
            if workers > 1 { (queries.div_ceil(self.block) * heads).div_ceil(2 * workers) } else { usize::MAX };
        geometry.group = fitting.min(queries.div_ceil(self.block)).min(spread).max(1);
        geometry
    }

    fn head<'a>(&self, tokens: Strided<'a>, first: usize, head: usize) -> HeadTokens<'a> {
        let start = first * tokens.stride + tokens.offset + head * self.spec.head_width;
        HeadTokens { elements: &tokens.elements[start..], stride: tokens.stride, width: self.spec.head_width }
    }
}

/// How one call is cut into blocks.
#[derive(Clone, Copy)]
struct Geometry {
    head_width: usize,
    causal: bool,
    queries: usize,
    keys: usize,
    /// Queries in a block: the lanes of the vectors that a tile has side by side.
    block: usize,
    /// Keys in a block.
    key_block: usize,
    /// Blocks of queries in a task.
    group: usize,
}

impl Geometry {
    /// Tasks per head and row.
    fn groups(&self) -> usize {
        self.queries.div_ceil(self.block * self.group)
    }

    /// Elements of a task's scratch memory, a multiple of the cache line.
    fn scratch(&self) -> usize {
        self.shared_scratch() + self.group * self.block_scratch()
    }

    /// Packed keys and values, and the scores of one block of queries.
    fn shared_scratch(&self) -> usize {
        2 * self.packed() + self.scores()
    }

    /// Elements of packed keys, or values.
    fn packed(&self) -> usize {
        (self.key_block * padded(self.head_width)).next_multiple_of(LINE)
    }

    fn scores(&self) -> usize {
        (self.key_block * self.block).next_multiple_of(LINE)
    }

    /// Packed queries, output, maximum and sum of a block of queries.
    fn block_scratch(&self) -> usize {
        ((padded(self.head_width) + self.head_width + 2) * self.block).next_multiple_of(LINE)
    }
}

/// Lanes of an instruction set.
struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
}
