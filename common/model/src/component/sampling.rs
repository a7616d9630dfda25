//! Changes of resolution with a 3×3 convolution.

use candle_core::Tensor;

use super::operation::{Operation, Source, expect};
use crate::ModelError;
use crate::families::UpsampleOp;
use crate::kernels::{Conv2d, Conv2dSpec, Kernels};

/// To half the size, rounded up.
pub(super) struct Downsample(Conv2d);

impl Downsample {
    pub(super) fn load(channels: u32, source: Source<'_>) -> Result<Self, ModelError> {
        let spec = Conv2dSpec { stride: 2, ..Conv2dSpec::same3(channels as usize, channels as usize) };
        Ok(Self(source.kernels.conv2d(spec, source.weights, &source.path("conv"))?))
    }
}

impl Operation for Downsample {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden] = expect(operands)?;
        self.0.forward(hidden)
    }

    fn resident_bytes(&self) -> u64 {
        self.0.resident_bytes()
    }
}

/// To twice the size, or one less where the skip connection has an odd size.
pub(super) struct Upsample {
    kernels: Kernels,
    conv: Conv2d,
    height: usize,
    width: usize,
}

impl Upsample {
    pub(super) fn load(op: &UpsampleOp, source: Source<'_>) -> Result<Self, ModelError> {
        let spec = Conv2dSpec::same3(op.channels as usize, op.channels as usize);
        Ok(Self {
            kernels: source.kernels.clone(),
            conv: source.kernels.conv2d(spec, source.weights, &source.path("conv"))?,
            height: op.height as usize,
            width: op.width as usize,
        })
    }
}

impl Operation for Upsample {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden] = expect(operands)?;
        self.conv.forward(&self.kernels.upsample_nearest(hidden, self.height, self.width)?)
    }

    fn resident_bytes(&self) -> u64 {
        self.conv.resident_bytes()
    }
}
