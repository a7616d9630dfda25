//! Layers of one kernel: the first convolution, the last norm, the last convolution.

use candle_core::Tensor;

use super::operation::{Operation, Source, conv_spec, expect};
use crate::ModelError;
use crate::families::{ConvOp, GroupNormOp};
use crate::kernels::{Activation, Conv2d, GroupNorm, GroupNormSpec, Kernels};

/// A convolution that keeps height and width.
pub(super) struct Convolution(Conv2d);

impl Convolution {
    pub(super) fn load(op: &ConvOp, source: Source<'_>) -> Result<Self, ModelError> {
        Ok(Self(source.kernels.conv2d(conv_spec(op), source.weights, source.path)?))
    }
}

impl Operation for Convolution {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden] = expect(operands)?;
        self.0.forward(hidden)
    }

    fn resident_bytes(&self) -> u64 {
        self.0.resident_bytes()
    }
}

/// A group norm alone: what crosses where a partition cuts between the last norm and the last convolution.
pub(super) struct Norm(GroupNorm);

impl Norm {
    pub(super) fn load(op: &GroupNormOp, source: Source<'_>) -> Result<Self, ModelError> {
        let spec = GroupNormSpec {
            groups: op.groups as usize,
            channels: op.channels as usize,
            epsilon: op.epsilon as f32,
            activation: Activation::None,
        };
        Ok(Self(source.kernels.group_norm(spec, source.weights, source.path)?))
    }
}

impl Operation for Norm {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden] = expect(operands)?;
        self.0.forward(hidden)
    }

    fn resident_bytes(&self) -> u64 {
        self.0.resident_bytes()
    }
}

/// SiLU, then a convolution: the noise prediction.
pub(super) struct SiluConvolution {
    kernels: Kernels,
    conv: Conv2d,
}

impl SiluConvolution {
    pub(super) fn load(op: &ConvOp, source: Source<'_>) -> Result<Self, ModelError> {
        let conv = source.kernels.conv2d(conv_spec(op), source.weights, source.path)?;
        Ok(Self { kernels: source.kernels.clone(), conv })
    }
}

impl Operation for SiluConvolution {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden] = expect(operands)?;
        self.conv.forward(&self.kernels.activate(Activation::Silu, hidden)?)
    }

    fn resident_bytes(&self) -> u64 {
        self.conv.resident_bytes()
    }
}
