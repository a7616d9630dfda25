//! Convolutions and attention by plain loops, where a GPU has a library for them.

use super::super::fused::{Attention, AttentionShape, Convolution, ConvolutionShape, Epilogue};
use super::memory::Memories;
use super::product::{read, write};
use candle_core::cpu::erf::erf_f32;

use crate::graph::Activation;
use crate::kernels::Format;

/// # Panics
/// When an operand lies outside of its memory or is NaN, is not aligned, or when the target is read only.
pub(super) fn convolve(convolution: &Convolution, memories: &mut Memories) {
    let Convolution { shape, source, weights, bias, row_bias, factor, residual, target } = *convolution;
    let ConvolutionShape { format, rows, height, width, channels, out_channels, kernel, then, .. } = shape;
    let pixels = shape.out_height * shape.out_width;
    for place in [Some(source), Some(weights), bias, row_bias, factor, residual, Some(target)].into_iter().flatten() {
        assert!(place.offset.is_multiple_of(16), "{place:?} of a convolution is not aligned");
    }
    let elements = read(memories, format, source, rows * height * width * channels);
    let weights = read(memories, format, weights, out_channels * kernel * kernel * channels);
    let are_there = [bias, row_bias, factor, residual].map(|place| place.is_some());
    assert_eq!(are_there, operands_of(then), "operands of {shape:?}");
    let bias = bias.map(|place| read(memories, Format::F32, place, out_channels));
    let row_bias = row_bias.zip(then.row_bias).map(|(place, rows)| read(memories, format, place, rows * out_channels));
    let factor = factor.map(|place| read(memories, format, place, rows * pixels * out_channels));
    let residual =
        residual.zip(then.residual).map(|(place, rows)| read(memories, format, place, rows * pixels * out_channels));
    let mut made = Vec::with_capacity(rows * pixels * out_channels);
    for pixel in 0..rows * pixels {
        let window = window(&shape, &elements, pixel);
        for channel in 0..out_channels {
            let weights = &weights[channel * window.len()..][..window.len()];
            let mut value: f32 = window.iter().zip(weights).map(|(one, other)| one * other).sum();
            // Where one row counts for all, what lies behind it is the first again.
            let of_row = pixel / pixels * out_channels + channel;
            let of_pixel = pixel * out_channels + channel;
            value += bias.as_ref().map_or(0.0, |bias| bias[channel]);
            value += row_bias.as_ref().map_or(0.0, |elements| elements[of_row % elements.len()]);
            value = activated(then.activation, value);
            value *= factor.as_ref().map_or(1.0, |elements| elements[of_pixel]);
            value += residual.as_ref().map_or(0.0, |elements| elements[of_pixel % elements.len()]);
            made.push(value);
        }
    }
    write(memories, format, target, &made);
}

/// # Panics
/// As [`convolve`].
pub(super) fn attend(attention: &Attention, memories: &mut Memories) {
    let Attention { shape, operands, target } = *attention;
    let AttentionShape { format, rows, heads, width, queries, keys, strides, operand_rows } = shape;
    let tokens = [queries, keys, keys];
    let [query, key, value] = [0, 1, 2].map(|index| {
        assert!(operands[index].offset.is_multiple_of(16), "{:?} of attention is not aligned", operands[index]);
        // The last token ends with its last head, whatever lies behind it.
        let all = (operand_rows[index] * tokens[index] - 1) * strides[index] + heads * width;
        read(memories, format, operands[index], all)
    });
    let token = |index: usize, row: usize, token: usize, head: usize| {
        let row = if operand_rows[index] == 1 { 0 } else { row };
        (row * tokens[index] + token) * strides[index] + head * width
    };
    let mut made = vec![0.0; rows * queries * heads * width];
    for (index, target) in made.chunks_exact_mut(width).enumerate() {
        let (row, of_query, head) = (index / heads / queries, index / heads % queries, index % heads);
        let query = &query[token(0, row, of_query, head)..][..width];
        let score = |of_key: usize| {
            let key = &key[token(1, row, of_key, head)..][..width];
            query.iter().zip(key).map(|(one, other)| one * other).sum::<f32>() / (width as f32).sqrt()
        };
        let scores: Vec<f32> = (0..keys).map(score).collect();
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f32 = scores.iter().map(|score| (score - largest).exp()).sum();
        for (of_key, score) in scores.iter().enumerate() {
            let weight = (score - largest).exp() / total;
            let value = &value[token(2, row, of_key, head)..][..width];
            target.iter_mut().zip(value).for_each(|(target, value)| *target += weight * value);
        }
    }
    write(memories, format, target, &made);
}

/// Whether there are a bias, a row bias, a factor and a residual.
fn operands_of(then: Epilogue) -> [bool; 4] {
    [then.bias, then.row_bias.is_some(), then.factor, then.residual.is_some()]
}

/// `[kernel, kernel, channels]`, zeros outside of the source.
fn window(shape: &ConvolutionShape, elements: &[f32], pixel: usize) -> Vec<f32> {
    let &ConvolutionShape { height, width, channels, out_height, out_width, kernel, stride, padding, .. } = shape;
    let [before, _] = padding;
    let (x, y, row) = (pixel % out_width, pixel / out_width % out_height, pixel / out_width / out_height);
    let mut window = vec![0.0; kernel * kernel * channels];
    for (tap, target) in window.chunks_exact_mut(channels).enumerate() {
        let (line, column) = (y * stride + tap / kernel, x * stride + tap % kernel);
        let inside = (before..before + height).contains(&line) && (before..before + width).contains(&column);
        if inside {
            let first = ((row * height + line - before) * width + column - before) * channels;
            target.copy_from_slice(&elements[first..][..channels]);
        }
    }
    window
}

fn activated(activation: Activation, value: f32) -> f32 {
    match activation {
        Activation::Gelu => 0.5 * value * (1.0 + erf_f32(value * std::f32::consts::FRAC_1_SQRT_2)),
        Activation::None => value,
        Activation::Silu => value / (1.0 + (-value).exp()),
        Activation::QuickGelu => panic!("{activation:?} behind a convolution is for `finish`"),
    }
}
