//! Convolutions and linear layers: windows are gathered where the sources are none themselves, multiplied, and finished.
//!
//! ```text
//!   sources ──gather──► windows (scratch) ──product──► sums (the target; scratch for GEGLU) ──finish──► target
//! ```
//!
//! In bands of pixels, so that scratch is bounded.

use super::super::launch::{Argument, Kernel, Place, Product, Step};
use super::super::pack::{Parameters, Reads, WeightRows, element_bytes};
use super::node::{NodeLowering, Operand};
use crate::graph::{Activation, ConvolutionOp, Extent, Store};

/// What a band's windows and sums may take. Half of what a layer's weights and activations take, and enough pixels to keep a GPU busy:
/// more than 10 000 windows of 3×3×320 channels in bf16.
pub(super) const SCRATCH_BYTES: usize = 64 << 20;

/// A band is a multiple of so many pixels, which products take at a time.
const BAND_MULTIPLE: usize = 128;

/// `GEGLU` of the sources.
const GEGLU: Argument = Argument::Int(4);

/// Some of the output's pixels, counted over all rows of the batch.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub(super) first: usize,
    pub(super) pixels: usize,
}

/// Which windows are gathered, and for how many pixels of a row.
#[derive(Clone, Copy)]
pub(super) struct PixelsOf {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Zeros before the first pixel, on both axes.
    pub(super) before: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// Elements of a window.
    pub(super) depth: usize,
}

impl NodeLowering<'_> {
    pub(super) fn convolution(&mut self, op: &ConvolutionOp) {
        let Parameters::Weights { weights, bias, rows } = self.parameters else { return };
        let WeightRows { reads, depth } = rows;
        let element = element_bytes(self.format);
        let windows_bytes = if reads == Reads::Windows { depth * element } else { 0 };
        let sums_bytes = if op.store == Store::Geglu { op.out_channels * element } else { 0 };
        let pixels = self.rows * self.node.writes.pixels();
        let band_pixels = band_pixels(pixels, windows_bytes + sums_bytes);
        let windows = (windows_bytes > 0).then(|| self.take_scratch(band_pixels * windows_bytes));
        let scratch_sums = (sums_bytes > 0).then(|| self.take_scratch(band_pixels * sums_bytes));
        let [before, _] = op.padding;
        let Extent { height, width, .. } = self.node.writes;
        let of = PixelsOf { kernel: op.kernel, stride: op.stride, before, height, width, depth };
        for first in (0..pixels).step_by(band_pixels) {
            let band = Band { first, pixels: band_pixels.min(pixels - first) };
            let left = match windows {
                Some(windows) => {
                    self.gather(op, band, windows, of);
                    windows
                }
                None => self.element(self.reads[0].place, first * depth),
            };
            let sums = scratch_sums.unwrap_or_else(|| self.element(self.target, first * op.out_channels));
            let (m, n, k) = (band.pixels, op.out_channels, depth);
            self.push(Step::Product(Product { m, n, k, left, right: weights, target: sums }));
            self.finish_sums(op, band, sums, bias);
        }
    }

    pub(super) fn gather(&mut self, op: &ConvolutionOp, band: Band, windows: Place, of: PixelsOf) {
        let sources = &self.reads[..op.sources];
        let Extent { height, width, .. } = sources[0].extent;
        let channels: usize = sources.iter().map(|source| source.extent.channels).sum();
        let wide = self.are_whole_vectors(sources);
        let [upsampled_height, upsampled_width] = op.size;
        let more: [Argument; 14] = [
            windows.into(),
            height.into(),
            width.into(),
            upsampled_height.into(),
            upsampled_width.into(),
            of.kernel.into(),
            of.stride.into(),
            of.before.into(),
            channels.into(),
            of.depth.into(),
            of.height.into(),
            of.width.into(),
            band.first.into(),
            wide.into(),
        ];
        let arguments: Vec<Argument> = self.concatenation(sources).into_iter().chain(more).collect();
        self.launch(Kernel::Gather, [band.pixels, 1, 1], self.channel_threads(of.depth, wide), arguments);
    }

    /// Everything between the sums and what is stored; nothing, where that is the same.
    pub(super) fn finish_sums(&mut self, op: &ConvolutionOp, band: Band, sums: Place, bias: Option<Place>) {
        let is_plain = op.store == Store::Plain(Activation::None);
        if is_plain && bias.is_none() && !op.row_bias && !op.residual {
            return;
        }
        let channels = op.stored_channels();
        let row_bias = op.row_bias_index().map(|index| self.reads[index]);
        let residual = op.residual_index().map(|index| self.reads[index]);
        let wide = self.is_wide(&[]);
        let place = |operand: Operand| operand.place;
        // The residual may have the same elements in another shape, so its pixels are counted as the target's.
        let row_pixels = self.node.writes.pixels();
        let residual_row_pixels = residual.map_or(0, |operand| if operand.rows == 1 { 0 } else { row_pixels });
        let arguments: [Argument; 12] = [
            sums.into(),
            bias.into(),
            row_bias.map(place).into(),
            row_bias.is_some_and(|operand| operand.rows > 1).into(),
            residual.map(place).into(),
            residual_row_pixels.into(),
            self.target.into(),
            channels.into(),
            row_pixels.into(),
            band.first.into(),
            match op.store {
                Store::Geglu => GEGLU,
                Store::Plain(activation) => activation.into(),
            },
            wide.into(),
        ];
        self.launch(Kernel::Finish, [band.pixels, 1, 1], self.channel_threads(channels, wide), arguments);
    }
}

/// How many of the pixels are taken at a time if each takes so many bytes of scratch.
fn band_pixels(pixels: usize, pixel_bytes: usize) -> usize {
    let fit = SCRATCH_BYTES / pixel_bytes.max(1);
    if fit >= pixels { pixels } else { (fit / BAND_MULTIPLE).max(1) * BAND_MULTIPLE }
}
