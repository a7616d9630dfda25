//! Two-dimensional convolution.

use std::sync::Arc;

use candle_core::Tensor;

use super::{KernelSet, Kernels, cpu};
use crate::ModelError;
use crate::checkpoint::Weights;

/// A square-kernel convolution with bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dSpec {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Height and width of the kernel.
    pub kernel: usize,
    /// Step between output pixels.
    pub stride: usize,
    /// Zeros added on each of the four sides.
    pub padding: usize,
}

impl Conv2dSpec {
    /// A 3×3 convolution that keeps height and width.
    #[must_use]
    pub fn same3(in_channels: usize, out_channels: usize) -> Self {
        Self { in_channels, out_channels, kernel: 3, stride: 1, padding: 1 }
    }

    /// A 1×1 convolution: one product per pixel.
    #[must_use]
    pub fn pointwise(in_channels: usize, out_channels: usize) -> Self {
        Self { in_channels, out_channels, kernel: 1, stride: 1, padding: 0 }
    }

    /// Length of an output axis for an input axis, or `None` if the kernel does not fit.
    #[must_use]
    pub fn output_axis(&self, input_axis: usize) -> Option<usize> {
        (input_axis + 2 * self.padding).checked_sub(self.kernel).map(|room| room / self.stride + 1)
    }
}

/// A convolution ready to compute.
#[derive(Clone, Debug)]
pub struct Conv2d {
    spec: Conv2dSpec,
    kernel: ConvolutionKernel,
}

#[derive(Clone, Debug)]
enum ConvolutionKernel {
    /// `weight`: `[out_channels, in_channels, kernel, kernel]`, `bias`: `[1, out_channels, 1, 1]`.
    Candle { weight: Tensor, bias: Tensor },
    /// `weight` as above.
    Cpu { weight: Tensor, bias: Arc<[f32]> },
}

impl Conv2d {
    pub(super) fn load(
        kernels: &Kernels,
        spec: Conv2dSpec,
        weights: &dyn Weights,
        path: &str,
    ) -> Result<Self, ModelError> {
        let shape = [spec.out_channels, spec.in_channels, spec.kernel, spec.kernel];
        let weight = weights.tensor(&format!("{path}.weight"), &shape, kernels.device())?;
        let bias = weights.tensor(&format!("{path}.bias"), &[spec.out_channels], kernels.device())?;
        let kernel = match kernels.set {
            KernelSet::Candle => {
                ConvolutionKernel::Candle { weight, bias: bias.reshape((1, spec.out_channels, 1, 1))? }
            }
            KernelSet::Cpu => ConvolutionKernel::Cpu { weight, bias: bias.to_vec1()?.into() },
        };
        Ok(Self { spec, kernel })
    }

    /// Convolves.
    ///
    /// # Shapes
    /// - `input`: `[batch, in_channels, height, width]`
    /// - returns: `[batch, out_channels, out_height, out_width]`
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let (_batch, channels, height, width) = input.dims4()?;
        let fits = self.spec.output_axis(height).is_some() && self.spec.output_axis(width).is_some();
        if channels != self.spec.in_channels || !fits {
            return Err(ModelError::ShapeMismatch {
                layer: format!("{:?}", self.spec),
                operand: "input".to_owned(),
                expected: format!("[batch, {}, height, width]", self.spec.in_channels),
                found: input.dims().to_vec(),
            });
        }
        match &self.kernel {
            ConvolutionKernel::Candle { weight, bias } => {
                let output = input.conv2d(weight, self.spec.padding, self.spec.stride, 1, 1)?;
                Ok(output.broadcast_add(bias)?)
            }
            ConvolutionKernel::Cpu { weight, bias } => {
                let operation = cpu::Convolution { spec: self.spec, bias: bias.clone() };
                Ok(input.contiguous()?.apply_op2_no_bwd(weight, &operation)?)
            }
        }
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let Conv2dSpec { in_channels, out_channels, kernel, .. } = self.spec;
        4 * (out_channels * (in_channels * kernel * kernel + 1)) as u64
    }
}
