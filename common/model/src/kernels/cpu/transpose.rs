//! Transposes, in blocks of four by four that the compiler keeps in registers on every instruction set.

use crate::kernels::cpu::threads::for_chunks;

/// Edge of the block that registers hold: four loads, eight shuffles, four stores.
const EDGE: usize = 4;

/// Elements of a row that are handled before the next rows: a cache line.
///
/// Planes are often a multiple of 4 KiB apart, where all their lines fall into one set of the first-level cache; a line that is
/// read whole at once does not mind.
const LINE: usize = 16;

/// A matrix in memory; rows are `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) elements: &'a [f32],
    pub(crate) stride: usize,
}

/// Reorders an image batch so that the channels of a pixel lie side by side.
///
/// # Shapes
/// - `input`: `[rows, channels, pixels]`
/// - `output`: `[rows, pixels, channels]`
pub(crate) fn to_channels_last(rows: usize, channels: usize, pixels: usize, input: &[f32], output: &mut [f32]) {
    batch_transpose((rows, channels, pixels), input, output);
}

/// Reorders an image batch so that the pixels of a channel lie side by side.
///
/// # Shapes
/// - `input`: `[rows, pixels, channels]`
/// - `output`: `[rows, channels, pixels]`
pub(crate) fn to_channels_first(rows: usize, channels: usize, pixels: usize, input: &[f32], output: &mut [f32]) {
    batch_transpose((rows, pixels, channels), input, output);
}

/// `[batch, height, width]` to `[batch, width, height]`.
fn batch_transpose((batch, height, width): (usize, usize, usize), input: &[f32], output: &mut [f32]) {
    let size = height * width;
    assert_eq!(input.len(), batch * size, "input of a transpose");
    assert_eq!(output.len(), batch * size, "output of a transpose");
    if size == 0 {
        return;
    }
    for (input, output) in input.chunks(size).zip(output.chunks_mut(size)) {
        for_chunks(batch * size, output, LINE * height, |index, output| {
            let columns = output.len() / height;
            let source = Rows { elements: &input[index * LINE..], stride: width };
            transpose(source, (height, columns), output, height);
        });
    }
}

/// Writes column `c` of the first `height` rows and `width` columns of `source` to `target[c * target_stride..]`.
#[inline(always)]
pub(crate) fn transpose(source: Rows, (height, width): (usize, usize), target: &mut [f32], target_stride: usize) {
    let (blocks_high, blocks_wide) = (height / EDGE * EDGE, width / EDGE * EDGE);
    if target_stride > source.stride {
        for row in (0..blocks_high).step_by(LINE) {
            let rows = LINE.min(blocks_high - row);
            for column in (0..blocks_wide).step_by(EDGE) {
                let source = Rows { elements: &source.elements[row * source.stride + column..], ..source };
                transpose_down(source, rows, &mut target[column * target_stride + row..], target_stride);
            }
        }
    } else {
        for column in (0..blocks_wide).step_by(LINE) {
            let columns = LINE.min(blocks_wide - column);
            for row in (0..blocks_high).step_by(EDGE) {
                let source = Rows { elements: &source.elements[row * source.stride + column..], ..source };
                transpose_across(source, columns, &mut target[column * target_stride + row..], target_stride);
            }
        }
    }
    for row in 0..height {
        let first = if row < blocks_high { blocks_wide } else { 0 };
        for column in first..width {
            target[column * target_stride + row] = source.elements[row * source.stride + column];
        }
    }
}

/// Blocks side by side, of which `source` and `target` hold the first element first: reads whole lines.
#[inline(always)]
fn transpose_across(source: Rows, columns: usize, target: &mut [f32], target_stride: usize) {
    let row = |index: usize| source.elements[index * source.stride..][..columns].as_chunks::<EDGE>().0;
    let rows = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
    for (block, (((a, b), c), d)) in rows.enumerate() {
        let target = &mut target[block * EDGE * target_stride..][..3 * target_stride + EDGE];
        for (index, column) in transpose_block([*a, *b, *c, *d]).iter().enumerate() {
            target[index * target_stride..][..EDGE].copy_from_slice(column);
        }
    }
}

/// Blocks one below another, of which `source` and `target` hold the first element first: writes whole lines.
#[inline(always)]
fn transpose_down(source: Rows, rows: usize, target: &mut [f32], target_stride: usize) {
    let (a, target) = target.split_at_mut(target_stride);
    let (b, target) = target.split_at_mut(target_stride);
    let (c, d) = target.split_at_mut(target_stride);
    let blocks = |target| <[f32]>::as_chunks_mut::<EDGE>(target).0;
    let columns = blocks(&mut a[..rows]).iter_mut().zip(blocks(&mut b[..rows]));
    let columns = columns.zip(blocks(&mut c[..rows])).zip(blocks(&mut d[..rows]));
    for (block, (((a, b), c), d)) in columns.enumerate() {
        let source = &Rows { elements: &source.elements[block * EDGE * source.stride..], ..source };
        let mut rows = [[0.0; EDGE]; EDGE];
        for (index, row) in rows.iter_mut().enumerate() {
            row.copy_from_slice(&source.elements[index * source.stride..][..EDGE]);
        }
        [*a, *b, *c, *d] = transpose_block(rows);
    }
}

/// One block. Written out for x86-64, where the compiler would move it element by element, which takes four times as long, and for aarch64,
/// where it does the same.
#[inline(always)]
fn transpose_block(rows: [[f32; EDGE]; EDGE]) -> [[f32; EDGE]; EDGE] {
    #[cfg(target_arch = "x86_64")]
    if let Some(sse) = pulp::core_arch::x86::Sse::try_new() {
        // Every x86-64 CPU has SSE, so the question costs nothing at run time.
        let [a, b, c, d] = pulp::bytemuck::cast::<_, [std::arch::x86_64::__m128; EDGE]>(rows);
        let (ab_low, ab_high) = (sse._mm_unpacklo_ps(a, b), sse._mm_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (sse._mm_unpacklo_ps(c, d), sse._mm_unpackhi_ps(c, d));
        return pulp::bytemuck::cast([
            sse._mm_movelh_ps(ab_low, cd_low),
            sse._mm_movehl_ps(cd_low, ab_low),
            sse._mm_movelh_ps(ab_high, cd_high),
            sse._mm_movehl_ps(cd_high, ab_high),
        ]);
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(neon) = pulp::core_arch::aarch64::Neon::try_new() {
        // Every aarch64 CPU has NEON, so this question costs nothing either.
        let [a, b, c, d] = pulp::bytemuck::cast::<_, [std::arch::aarch64::float32x4_t; EDGE]>(rows);
        let (ac, bd) = (neon.vzipq_f32(a, c), neon.vzipq_f32(b, d));
        return pulp::bytemuck::cast([neon.vzipq_f32(ac.0, bd.0), neon.vzipq_f32(ac.1, bd.1)]);
    }
    let mut columns = [[0.0; EDGE]; EDGE];
    for (row, values) in rows.iter().enumerate() {
        for (column, &value) in columns.iter_mut().zip(values) {
            column[row] = value;
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::numbers;

    #[test]
    fn channels_last_and_back_are_inverses() {
        for (rows, channels, pixels) in [(1, 1, 1), (2, 4, 64), (1, 3, 7), (2, 20, 33), (1, 33, 129), (3, 320, 256)] {
            let input = numbers(1, rows * channels * pixels);
            let mut last = vec![f32::NAN; input.len()];
            to_channels_last(rows, channels, pixels, &input, &mut last);
            for (index, &value) in last.iter().enumerate() {
                let (row, pixel, channel) = (index / (channels * pixels), index / channels % pixels, index % channels);
                assert_eq!(value, input[(row * channels + channel) * pixels + pixel]);
            }
            let mut first = vec![f32::NAN; input.len()];
            to_channels_first(rows, channels, pixels, &last, &mut first);
            assert_eq!(first, input);
        }
    }
}
