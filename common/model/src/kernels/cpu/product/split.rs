//! How work is divided: evenly, and over threads where that pays.

use std::ops::Range;

use rayon::prelude::*;

/// Shares per thread: a thread that is held up leaves some of its own to the others.
const SHARES: usize = 4;
/// Multiplications below which waking another thread costs more than it saves: about 20 µs of work.
const SMALL: usize = 1 << 20;

/// The `index`th of `parts` ranges of nearly the same length.
#[inline(always)]
pub(crate) fn part(length: usize, parts: usize, index: usize) -> Range<usize> {
    length * index / parts..length * (index + 1) / parts
}

/// In how many shares to divide work of that many multiplications.
pub(crate) fn shares(multiplications: usize) -> usize {
    match rayon::current_num_threads() {
        2.. if multiplications < SMALL => 1,
        1 => 1,
        threads => threads * SHARES,
    }
}

/// Runs all indices, over threads if there are several.
pub(crate) fn for_each(count: usize, run: impl Fn(usize) + Send + Sync) {
    if count == 1 {
        return run(0);
    }
    (0..count).into_par_iter().with_max_len(1).for_each(run);
}
