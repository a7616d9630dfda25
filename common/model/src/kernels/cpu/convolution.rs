//! Convolution as a product of the weights with columns of input pixels, band by band of output rows.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, Error, Layout, Result, Shape};

use super::product::{Matrix, Sizes, Store, Target, multiply};
use super::storage::{elements, for_blocks};
use crate::kernels::Conv2dSpec;

/// The most elements of the buffer of columns (16 MiB), unless one output row needs more. Without a bound, decoding a
/// 512² image would need more than a gigabyte; much smaller bands would read the weights too often.
const COLUMN_ELEMENTS: usize = 4 << 20;

/// A convolution of contiguous tensors.
pub(in crate::kernels) struct Convolution {
    pub(in crate::kernels) spec: Conv2dSpec,
    /// One per output channel.
    pub(in crate::kernels) bias: Arc<[f32]>,
}

/// Heights and widths of one call.
#[derive(Clone, Copy)]
struct Size {
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    /// # Shapes
    /// - first: `[batch, in_channels, height, width]`
    /// - second: `[out_channels, in_channels, kernel, kernel]`
    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, channels, height, width) = input_layout.shape().dims4()?;
        let (Some(out_height), Some(out_width)) = (self.spec.output_axis(height), self.spec.output_axis(width)) else {
            return Err(Error::Msg(format!("a {height}x{width} input is smaller than the kernel")).bt());
        };
        let input = elements(input, input_layout)?;
        let weight = elements(weight, weight_layout)?;
        let out_channels = self.spec.out_channels;
        let size = Size { height, width, out_height, out_width };
        let mut output = vec![0.0; batch * out_channels * out_height * out_width];
        let images = input.chunks((channels * height * width).max(1));
        for (image, output) in images.zip(output.chunks_mut((out_channels * out_height * out_width).max(1))) {
            for (channel, &bias) in output.chunks_mut(out_height * out_width).zip(self.bias.iter()) {
                channel.fill(bias);
            }
            if self.spec.kernel == 1 && self.spec.stride == 1 && self.spec.padding == 0 {
                self.add_product(weight, image, output, out_height * out_width);
            } else {
                self.add_bands(weight, image, output, size);
            }
        }
        Ok((CpuStorage::F32(output), Shape::from((batch, out_channels, out_height, out_width))))
    }
}

impl Convolution {
    /// Adds one image's convolution to its bias.
    fn add_bands(&self, weight: &[f32], image: &[f32], output: &mut [f32], size: Size) {
        let depth = self.spec.in_channels * self.spec.kernel * self.spec.kernel;
        let band_rows = (COLUMN_ELEMENTS / (depth * size.out_width)).clamp(1, size.out_height);
        let mut columns = vec![0.0; depth * band_rows * size.out_width];
        for first_row in (0..size.out_height).step_by(band_rows) {
            let rows = band_rows.min(size.out_height - first_row);
            let pixels = rows * size.out_width;
            let columns = &mut columns[..depth * pixels];
            for_blocks(columns, pixels, |index, column| self.gather(image, size, (index, first_row), column));
            let band = &mut output[first_row * size.out_width..];
            self.add_strided(weight, columns, (band, size.out_height * size.out_width), pixels);
        }
    }

    /// Adds the product of all weights with columns that cover the whole image.
    fn add_product(&self, weight: &[f32], columns: &[f32], output: &mut [f32], pixels: usize) {
        self.add_strided(weight, columns, (output, pixels), pixels);
    }

    /// Adds the product of all weights with `pixels` columns to a band of every output channel.
    fn add_strided(&self, weight: &[f32], columns: &[f32], band: (&mut [f32], usize), pixels: usize) {
        let depth = self.spec.in_channels * self.spec.kernel * self.spec.kernel;
        multiply(
            Sizes { rows: self.spec.out_channels, columns: pixels, depth },
            Matrix { elements: weight, row_stride: depth, column_stride: 1 },
            Matrix { elements: columns, row_stride: pixels, column_stride: 1 },
            Target { elements: band.0, row_stride: band.1, store: Store::Add },
        );
    }

    /// Copies what one element of the kernel sees: `index` counts input channel, kernel row and kernel column.
    fn gather(&self, image: &[f32], size: Size, (index, first_row): (usize, usize), column: &mut [f32]) {
        let Conv2dSpec { kernel, stride, padding, .. } = self.spec;
        let (channel, place) = (index / (kernel * kernel), index % (kernel * kernel));
        let (kernel_row, kernel_column) = (place / kernel, place % kernel);
        let channel = &image[channel * size.height * size.width..][..size.height * size.width];
        // Output columns whose input column, `out * stride + kernel_column - padding`, is inside of the image.
        let first = padding.saturating_sub(kernel_column).div_ceil(stride).min(size.out_width);
        let reach = size.width + padding;
        let last = reach.saturating_sub(kernel_column).div_ceil(stride).clamp(first, size.out_width);
        for (row, target) in column.chunks_mut(size.out_width).enumerate() {
            let source_row = ((first_row + row) * stride + kernel_row).checked_sub(padding);
            let Some(source_row) = source_row.filter(|&row| row < size.height) else {
                target.fill(0.0);
                continue;
            };
            target[..first].fill(0.0);
            target[last..].fill(0.0);
            if first == last {
                continue;
            }
            let source = &channel[source_row * size.width..][..size.width];
            let source = &source[first * stride + kernel_column - padding..];
            if stride == 1 {
                target[first..last].copy_from_slice(&source[..last - first]);
            } else {
                for (target, &source) in target[first..last].iter_mut().zip(source.iter().step_by(stride)) {
                    *target = source;
                }
            }
        }
    }
}
