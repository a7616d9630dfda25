//! The VAE's ResNet block, and the place that all of its layers are loaded from.

use candle_core::Tensor;

use crate::ModelError;
use crate::checkpoint::Weights;
use crate::kernels::{Activation, Conv2d, Conv2dSpec, GroupNorm, GroupNormSpec, Kernels};

/// Added to the variance in all of the VAE's group norms; diffusers has it in code, not in the configuration.
const EPSILON: f32 = 1e-6;

/// What a part of the VAE is loaded with.
#[derive(Clone, Copy)]
pub(super) struct Loader<'a> {
    pub(super) weights: &'a dyn Weights,
    pub(super) kernels: &'a Kernels,
    pub(super) groups: usize,
}

impl Loader<'_> {
    pub(super) fn conv(&self, spec: Conv2dSpec, path: &str) -> Result<Conv2d, ModelError> {
        self.kernels.conv2d(spec, self.weights, path)
    }

    pub(super) fn norm(&self, channels: usize, activation: Activation, path: &str) -> Result<GroupNorm, ModelError> {
        let spec = GroupNormSpec { groups: self.groups, channels, epsilon: EPSILON, activation };
        self.kernels.group_norm(spec, self.weights, path)
    }
}

/// Norm, SiLU, convolution, twice, beside a residual.
pub(super) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// Where the number of channels changes.
    shortcut: Option<Conv2d>,
}

impl Resnet {
    pub(super) fn load(
        loader: Loader<'_>,
        in_channels: usize,
        out_channels: usize,
        path: &str,
    ) -> Result<Self, ModelError> {
        let shortcut = match in_channels == out_channels {
            true => None,
            false => {
                Some(loader.conv(Conv2dSpec::pointwise(in_channels, out_channels), &format!("{path}.conv_shortcut"))?)
            }
        };
        Ok(Self {
            norm1: loader.norm(in_channels, Activation::Silu, &format!("{path}.norm1"))?,
            conv1: loader.conv(Conv2dSpec::same3(in_channels, out_channels), &format!("{path}.conv1"))?,
            norm2: loader.norm(out_channels, Activation::Silu, &format!("{path}.norm2"))?,
            conv2: loader.conv(Conv2dSpec::same3(out_channels, out_channels), &format!("{path}.conv2"))?,
            shortcut,
        })
    }

    /// # Shapes
    /// - `hidden`: `[batch, in_channels, height, width]`
    /// - returns: `[batch, out_channels, height, width]`
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let inner = self.conv1.forward(&self.norm1.forward(hidden)?)?;
        let inner = self.conv2.forward(&self.norm2.forward(&inner)?)?;
        match &self.shortcut {
            Some(shortcut) => Ok((shortcut.forward(hidden)? + inner)?),
            None => Ok((hidden + inner)?),
        }
    }
}
