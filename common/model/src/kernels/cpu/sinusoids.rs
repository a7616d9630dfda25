//! The sinusoids of a timestep or of a picture's size: a few hundred elements each, computed as the C library does so that the digits are PyTorch's.

use crate::graph::SinusoidsOp;

/// # Shapes
/// - `numbers`: `[rows, numbers]`
/// - `target`: `[rows, numbers, 2 * frequencies]`
pub(super) fn run(op: &SinusoidsOp, numbers: &[f32], target: &mut [f32]) {
    let count = op.frequencies.len();
    for (&number, row) in numbers.iter().zip(target.chunks_exact_mut((2 * count).max(1))) {
        let (first, second) = row.split_at_mut(count);
        let (sines, cosines) = if op.flip_sin_to_cos { (second, first) } else { (first, second) };
        for ((sine, cosine), frequency) in sines.iter_mut().zip(cosines).zip(&op.frequencies) {
            let angle = number * frequency;
            (*sine, *cosine) = (angle.sin(), angle.cos());
        }
    }
}
