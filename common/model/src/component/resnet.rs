//! A ResNet block: two norms and 3×3 convolutions, the time embedding added between them, and a shortcut around both.

use candle_core::Tensor;

use super::operation::{Operation, Source, expect};
use crate::ModelError;
use crate::families::ResnetOp;
use crate::kernels::{Activation, Bias, Conv2d, Conv2dSpec, GroupNorm, GroupNormSpec, Kernels, Linear, LinearSpec};

/// A ResNet block with its weights.
pub(super) struct Resnet {
    kernels: Kernels,
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl Resnet {
    pub(super) fn load(op: &ResnetOp, source: Source<'_>) -> Result<Self, ModelError> {
        let Source { weights, kernels, .. } = source;
        let (from, to) = (op.in_channels as usize, op.out_channels as usize);
        let norm = |name: &str, channels: usize| {
            let (groups, epsilon, activation) = (op.groups as usize, op.epsilon as f32, Activation::Silu);
            let spec = GroupNormSpec { groups, channels, epsilon, activation };
            kernels.group_norm(spec, weights, &source.path(name))
        };
        let time = LinearSpec { in_features: op.time_width as usize, out_features: to, bias: Bias::Present };
        let shortcut = || kernels.conv2d(Conv2dSpec::pointwise(from, to), weights, &source.path("conv_shortcut"));
        Ok(Self {
            kernels: kernels.clone(),
            norm1: norm("norm1", from)?,
            conv1: kernels.conv2d(Conv2dSpec::same3(from, to), weights, &source.path("conv1"))?,
            time_emb_proj: kernels.linear(time, weights, &source.path("time_emb_proj"))?,
            norm2: norm("norm2", to)?,
            conv2: kernels.conv2d(Conv2dSpec::same3(to, to), weights, &source.path("conv2"))?,
            conv_shortcut: if from == to { None } else { Some(shortcut()?) },
        })
    }

    /// # Shapes
    /// - `hidden`: `[batch, in_channels, height, width]`
    /// - `time`: `[batch, time_width]`, or one row for all
    /// - returns: `[batch, out_channels, height, width]`
    fn forward_block(&self, hidden: &Tensor, time: &Tensor) -> Result<Tensor, ModelError> {
        let time = self.time_emb_proj.forward(&self.kernels.activate(Activation::Silu, time)?)?;
        let (rows, channels) = time.dims2()?;
        let inner = self.conv1.forward(&self.norm1.forward(hidden)?)?;
        let inner = inner.broadcast_add(&time.reshape((rows, channels, 1, 1))?)?;
        let inner = self.conv2.forward(&self.norm2.forward(&inner)?)?;
        match &self.conv_shortcut {
            Some(shortcut) => Ok((inner + shortcut.forward(hidden)?)?),
            None => Ok((inner + hidden)?),
        }
    }
}

impl Operation for Resnet {
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        if let Ok([hidden, skip, time]) = <[&Tensor; 3]>::try_from(operands) {
            return self.forward_block(&Tensor::cat(&[hidden, skip], 1)?, time);
        }
        let [hidden, time] = expect(operands)?;
        self.forward_block(hidden, time)
    }

    fn resident_bytes(&self) -> u64 {
        let shortcut = self.conv_shortcut.as_ref().map_or(0, Conv2d::resident_bytes);
        let norms = self.norm1.resident_bytes() + self.norm2.resident_bytes();
        let convolutions = self.conv1.resident_bytes() + self.conv2.resident_bytes() + shortcut;
        norms + convolutions + self.time_emb_proj.resident_bytes()
    }
}
