//! Between channels first, as checkpoints, files and the network have images, and channels last, as kernels want them.

/// Side of the squares that are turned over at once: reads and writes of a square stay in the first cache.
const BLOCK: usize = 16;

/// # Shapes
/// - `source`: `[rows, channels, pixels]`
/// - `target`: `[rows, pixels, channels]`
pub(super) fn to_channels_last(source: &[f32], target: &mut [f32], pixels: usize, channels: usize) {
    transpose_rows(source, target, [channels, pixels]);
}

/// # Shapes
/// - `source`: `[rows, pixels, channels]`
/// - `target`: `[rows, channels, pixels]`
pub(super) fn to_channels_first(source: &[f32], target: &mut [f32], pixels: usize, channels: usize) {
    transpose_rows(source, target, [pixels, channels]);
}

fn transpose_rows(source: &[f32], target: &mut [f32], [height, width]: [usize; 2]) {
    let matrix = (height * width).max(1);
    for (source, target) in source.chunks_exact(matrix).zip(target.chunks_exact_mut(matrix)) {
        for top in (0..height).step_by(BLOCK) {
            for left in (0..width).step_by(BLOCK) {
                for column in left..(left + BLOCK).min(width) {
                    for line in top..(top + BLOCK).min(height) {
                        target[column * height + line] = source[line * width + column];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_is_where_it_was() {
        for (rows, channels, pixels) in [(1, 1, 1), (2, 3, 5), (1, 33, 70), (3, 64, 16)] {
            let source: Vec<f32> = (0..rows * channels * pixels).map(|index| index as f32).collect();
            let (mut last, mut back) = (vec![0.0; source.len()], vec![0.0; source.len()]);
            to_channels_last(&source, &mut last, pixels, channels);
            assert_eq!(last[channels * (pixels - 1)], source[pixels - 1]);
            to_channels_first(&last, &mut back, pixels, channels);
            assert_eq!(back, source);
        }
    }
}
