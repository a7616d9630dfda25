//! When and how a pass over an output is split among threads. The split never decides which bits come out.

use rayon::prelude::*;

/// Elements of output below which waking a thread (5 to 10 µs) costs more than it saves.
const PARALLEL_ELEMENTS: usize = 64 * 1024;

/// Whether a pass over this many elements is worth more than one thread.
pub(crate) fn pay(elements: usize) -> bool {
    elements >= PARALLEL_ELEMENTS && rayon::current_num_threads() > 1
}

/// Calls `operation` with the index and the elements of each chunk of the output, the last of which may be short.
///
/// `elements` is the size of the whole pass, which decides whether threads pay.
pub(crate) fn for_chunks(
    elements: usize,
    output: &mut [f32],
    chunk: usize,
    operation: impl Fn(usize, &mut [f32]) + Send + Sync,
) {
    let chunk = chunk.max(1);
    if pay(elements) {
        output.par_chunks_mut(chunk).enumerate().for_each(|(index, values)| operation(index, values));
    } else {
        output.chunks_mut(chunk).enumerate().for_each(|(index, values)| operation(index, values));
    }
}
