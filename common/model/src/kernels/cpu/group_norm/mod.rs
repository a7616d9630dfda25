//! Group normalisation and its activation in two passes over memory, over the concatenation of several inputs.
//!
//! ```text
//! inputs ──► sums per channel and chunk of pixels ──► mean and deviation per group (f64) ──► scale, shift, activation ──► output
//! ```
//!
//! Vectors run over channels, which lie side by side. Where channels do not fill vectors, several pixels are taken as one with
//! as many times the channels ("wide" pixels and channels below).

mod passes;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::graph::Activation;
use crate::kernels::cpu::isa::Isa;
use crate::kernels::cpu::pointwise::{Function, Gelu, Identity, QuickGelu, Silu};
use crate::kernels::cpu::threads::for_chunks;

use passes::{Apply, Sums, pivots};

/// Pixels whose sums are kept in f32; longer sums are joined in f64. Fewer cost time for small images, more cost digits.
const CHUNK_PIXELS: usize = 256;

/// The most chunks of an image: bounds the memory for sums (large images of the VAE have a quarter of a million pixels).
const MOST_CHUNKS: usize = 64;

/// Elements that a wide pixel should be a multiple of: the widest vectors (64 bytes), so that all vectors are full.
const WIDEST_LANES: usize = 16;

/// Elements of output that one thread takes at a time in the second pass.
const BLOCK: usize = 16 * 1024;

/// What a group normalisation is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GroupNormSpec {
    /// Channels of each input; the inputs are concatenated in the output. Groups may straddle them.
    pub sources: Vec<usize>,
    /// Groups of as many channels each.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied last.
    pub activation: Activation,
    /// Height times width of the image.
    pub pixels: usize,
}

/// Group normalisation, prepared for one shape.
pub(crate) struct GroupNorm {
    spec: GroupNormSpec,
    isa: Isa,
    /// One per channel.
    scale: Vec<f32>,
    /// One per channel.
    shift: Vec<f32>,
    /// Wide channels of each input.
    wide: Vec<Range<usize>>,
    /// Pixels in a wide pixel.
    repeat: usize,
    /// Wide pixels in a chunk.
    chunk: usize,
}

impl GroupNorm {
    /// # Shapes
    /// - `scale` and `shift`: `[channels]`, those of all inputs
    ///
    /// # Panics
    /// When the numbers of channels and groups do not fit.
    pub(crate) fn prepare(spec: GroupNormSpec, isa: Isa, scale: &[f32], shift: &[f32]) -> Self {
        let channels: usize = spec.sources.iter().sum();
        assert_eq!((scale.len(), shift.len()), (channels, channels), "parameters of a group normalisation");
        assert!(spec.groups > 0 && channels.is_multiple_of(spec.groups), "{channels} channels, {} groups", spec.groups);
        let repeat = repeat(&spec);
        let mut end = 0;
        let wide = spec.sources.iter().map(|source| {
            end += source * repeat;
            end - source * repeat..end
        });
        let wide = wide.collect();
        let chunk = CHUNK_PIXELS.max(spec.pixels.div_ceil(MOST_CHUNKS)).div_ceil(repeat);
        Self { isa, scale: scale.to_vec(), shift: shift.to_vec(), wide, repeat, chunk, spec }
    }

    /// Elements of scratch memory that [`Self::run`] needs.
    pub(crate) fn scratch_floats(&self, rows: usize) -> usize {
        rows * self.width() * (3 + 2 * self.chunks())
    }

    /// Normalises the concatenation of the inputs and applies the activation.
    ///
    /// # Shapes
    /// - `sources`: each `[rows, pixels, channels]`
    /// - `scratch`: at least [`Self::scratch_floats`] of `rows`; its content is of no account
    /// - `output`: `[rows, pixels, channels]`, the channels of all inputs side by side
    pub(crate) fn run(&self, rows: usize, sources: &[&[f32]], scratch: &mut [f32], output: &mut [f32]) {
        assert_eq!(sources.len(), self.wide.len(), "inputs of a group normalisation");
        for (source, channels) in sources.iter().zip(&self.spec.sources) {
            assert_eq!(source.len(), rows * self.spec.pixels * channels, "input of a group normalisation");
        }
        let (width, elements) = (self.width(), self.scale.len() * self.spec.pixels);
        assert_eq!(output.len(), rows * elements, "output of a group normalisation");
        if output.is_empty() {
            return;
        }
        let (pivot, scratch) = scratch.split_at_mut(rows * width);
        let (coefficients, scratch) = scratch.split_at_mut(2 * rows * width);
        let sums = &mut scratch[..2 * rows * width * self.chunks()];
        for (row, pivot) in pivot.chunks_mut(width).enumerate() {
            for (&source, wide) in sources.iter().zip(&self.wide) {
                pivots(self.pixels_of(source, wide, row), &mut pivot[wide.clone()]);
            }
        }
        self.sum(rows, sources, pivot, sums);
        let chunks = sums.chunks(2 * width * self.chunks());
        for ((sums, pivot), coefficients) in chunks.zip(pivot.chunks(width)).zip(coefficients.chunks_mut(2 * width)) {
            for group in 0..self.spec.groups {
                self.join(group, sums, pivot, coefficients);
            }
        }
        match self.spec.activation {
            Activation::Gelu => self.apply(Gelu, sources, (pivot, coefficients), output),
            Activation::None => self.apply(Identity, sources, (pivot, coefficients), output),
            Activation::QuickGelu => self.apply(QuickGelu, sources, (pivot, coefficients), output),
            Activation::Silu => self.apply(Silu, sources, (pivot, coefficients), output),
        }
    }

    /// Wide channels of all inputs.
    fn width(&self) -> usize {
        self.scale.len() * self.repeat
    }

    fn wide_pixels(&self) -> usize {
        self.spec.pixels / self.repeat
    }

    fn chunks(&self) -> usize {
        self.wide_pixels().div_ceil(self.chunk.max(1))
    }

    /// The pixels of a row of one input.
    fn pixels_of<'a>(&self, source: &'a [f32], wide: &Range<usize>, row: usize) -> &'a [f32] {
        let elements = wide.len() * self.wide_pixels();
        &source[row * elements..][..elements]
    }

    /// The first pass: sums of the distances to the pivot, and of their squares, for each chunk of pixels.
    fn sum(&self, rows: usize, sources: &[&[f32]], pivot: &[f32], sums: &mut [f32]) {
        let (width, chunks) = (self.width(), self.chunks());
        for_chunks(rows * width * self.wide_pixels(), sums, 2 * width, |index, sums| {
            let (row, chunk) = (index / chunks, index % chunks);
            let (sums, squares) = sums.split_at_mut(width);
            for (&source, wide) in sources.iter().zip(&self.wide) {
                let pixels = &self.pixels_of(source, wide, row)[chunk * self.chunk * wide.len()..];
                self.isa.dispatch(Sums {
                    pixels: &pixels[..pixels.len().min(self.chunk * wide.len())],
                    pivot: &pivot[row * width..][wide.clone()],
                    sums: &mut sums[wide.clone()],
                    squares: &mut squares[wide.clone()],
                });
            }
        });
    }

    /// Scale and shift of the channels of a group, from their sums: mean and squared distances of each channel, joined as in
    /// Chan, Golub and LeVeque (1979). All in f64, so the means of channels may be joined by sums of squares.
    fn join(&self, group: usize, sums: &[f32], pivot: &[f32], coefficients: &mut [f32]) {
        let (width, channels) = (self.width(), self.scale.len());
        let in_group = channels / self.spec.groups;
        let first = group * in_group;
        let (count, origin) = (self.wide_pixels() as f64, f64::from(pivot[first]));
        let count_inverse = 1.0 / count;
        let (mut means, mut squared_means, mut within) = (0.0, 0.0, 0.0);
        for start in (first..width).step_by(channels) {
            for channel in start..start + in_group {
                let (mut sum, mut square) = (0.0, 0.0);
                for sums in sums.chunks_exact(2 * width) {
                    sum += f64::from(sums[channel]);
                    square += f64::from(sums[width + channel]);
                }
                let mean = f64::from(pivot[channel]) - origin + sum * count_inverse;
                means += mean;
                squared_means += mean * mean;
                within += square - sum * sum * count_inverse;
            }
        }
        let joined = (in_group * self.repeat) as f64;
        let mean = means / joined;
        let variance = (within / (count * joined) + squared_means / joined - mean * mean).max(0.0);
        let deviation_inverse = 1.0 / (variance + f64::from(self.spec.epsilon)).sqrt();

        let (scales, shifts) = coefficients.split_at_mut(width);
        let parameters = self.scale[first..].iter().zip(&self.shift[first..]).take(in_group);
        for start in (first..width).step_by(channels) {
            for (channel, (&scale, &shift)) in (start..).zip(parameters.clone()) {
                let scale = f64::from(scale) * deviation_inverse;
                let distance = f64::from(pivot[channel]) - origin - mean;
                scales[channel] = scale as f32;
                shifts[channel] = (f64::from(shift) + distance * scale) as f32;
            }
        }
    }

    /// The second pass: scales, shifts and activates, and writes the inputs side by side.
    fn apply<F: Function>(
        &self,
        function: F,
        sources: &[&[f32]],
        (pivot, coefficients): (&[f32], &[f32]),
        output: &mut [f32],
    ) {
        let (width, row_elements, all) = (self.width(), self.width() * self.wide_pixels(), output.len());
        let block = (BLOCK / width).max(1);
        for (row, output) in output.chunks_mut(row_elements).enumerate() {
            let pivot = &pivot[row * width..][..width];
            let (scale, shift) = coefficients[row * 2 * width..][..2 * width].split_at(width);
            for_chunks(all, output, block * width, |index, output| {
                for (&source, wide) in sources.iter().zip(&self.wide) {
                    self.isa.dispatch(Apply {
                        function,
                        pixels: &self.pixels_of(source, wide, row)[index * block * wide.len()..],
                        pivot: &pivot[wide.clone()],
                        scale: &scale[wide.clone()],
                        shift: &shift[wide.clone()],
                        first: wide.start,
                        width,
                        output: &mut *output,
                    });
                }
            });
        }
    }
}

/// How many pixels are taken as one, so that vectors are full. Not for several inputs: their pixels alternate in the output.
fn repeat(spec: &GroupNormSpec) -> usize {
    let &[channels] = spec.sources.as_slice() else { return 1 };
    let mut repeat = 1;
    while !(channels * repeat).is_multiple_of(WIDEST_LANES) && spec.pixels.is_multiple_of(repeat * 2) {
        repeat *= 2;
    }
    repeat
}
