//! From candle's storage to slices, and how work is divided over threads.

use candle_core::{CpuStorage, Error, Layout, Result};
use rayon::prelude::*;

/// Below this many elements a loop is not divided: waking another thread takes as long as 10 to 20 thousand elements.
const PARALLEL_ELEMENTS: usize = 32 * 1024;

/// The elements of a contiguous f32 tensor.
pub(super) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op: "a fused CPU kernel" }.bt())?;
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `work` with each block of `output` and its index, on several threads if there are several and enough to do.
pub(super) fn for_blocks(output: &mut [f32], block: usize, work: impl Fn(usize, &mut [f32]) + Sync + Send) {
    // Without this, a pool of one thread would take every call over from the thread that asks, and its warm cache with it.
    if output.len() >= PARALLEL_ELEMENTS && rayon::current_num_threads() > 1 {
        output.par_chunks_mut(block).enumerate().for_each(|(index, chunk)| work(index, chunk));
    } else {
        output.chunks_mut(block).enumerate().for_each(|(index, chunk)| work(index, chunk));
    }
}
