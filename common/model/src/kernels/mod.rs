//! The one room where the kernel that computes a layer is chosen: pure specs and weights in, prepared operations out.
//!
//! Programs, components and models hold the operations made here and call `forward`; they never see which kernel runs.
//! [`Kernels::reference`] is candle's own operations on any device; [`Kernels::for_device`] takes faster ones where there are
//! any. Every faster kernel is tested against the reference. All kernels give the same bits for any number of threads.

mod activation;
mod attention;
mod convolution;
mod cpu;
mod linear;
mod norm;
#[cfg(test)]
mod parity;
mod resample;

use candle_core::{Device, Tensor};

pub use activation::Activation;
pub use attention::{Attention, AttentionMask, AttentionSpec};
pub use convolution::{Conv2d, Conv2dSpec};
pub use linear::{Bias, Linear, LinearSpec};
pub use norm::{GroupNorm, GroupNormSpec, LayerNorm, LayerNormSpec};

use crate::ModelError;
use crate::checkpoint::Weights;

/// Makes operations for one device.
#[derive(Clone, Debug)]
pub struct Kernels {
    device: Device,
    set: KernelSet,
}

/// Which family of kernels computes. New ones (packed weights, bf16, GPU) are new variants here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelSet {
    /// Candle's own operations.
    Candle,
    /// Fused f32 loops and matrix products on the CPU.
    Cpu,
}

impl Kernels {
    /// The best kernels that there are for the device.
    #[must_use]
    pub fn for_device(device: &Device) -> Self {
        let set = if device.is_cpu() { KernelSet::Cpu } else { KernelSet::Candle };
        Self { device: device.clone(), set }
    }

    /// Candle's own operations: what every other kernel is tested against.
    #[must_use]
    pub fn reference(device: &Device) -> Self {
        Self { device: device.clone(), set: KernelSet::Candle }
    }

    /// The device that the operations compute on; their inputs must be there.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// A convolution with the weights `path.weight` and `path.bias`.
    pub fn conv2d(&self, spec: Conv2dSpec, weights: &dyn Weights, path: &str) -> Result<Conv2d, ModelError> {
        Conv2d::load(self, spec, weights, path)
    }

    /// A fully connected layer with the weights `path.weight` and, where the spec has one, `path.bias`.
    pub fn linear(&self, spec: LinearSpec, weights: &dyn Weights, path: &str) -> Result<Linear, ModelError> {
        Linear::load(self, spec, weights, path)
    }

    /// A group normalisation, with its activation, with the weights `path.weight` and `path.bias`.
    pub fn group_norm(&self, spec: GroupNormSpec, weights: &dyn Weights, path: &str) -> Result<GroupNorm, ModelError> {
        GroupNorm::load(self, spec, weights, path)
    }

    /// A layer normalisation with the weights `path.weight` and `path.bias`.
    pub fn layer_norm(&self, spec: LayerNormSpec, weights: &dyn Weights, path: &str) -> Result<LayerNorm, ModelError> {
        LayerNorm::load(self, spec, weights, path)
    }

    /// Scaled dot product attention; it has no weights.
    #[must_use]
    pub fn attention(&self, spec: AttentionSpec) -> Attention {
        Attention::new(self, spec)
    }

    /// An activation function, element by element.
    ///
    /// # Shapes
    /// - `input`: any
    /// - returns: the same
    pub fn activate(&self, activation: Activation, input: &Tensor) -> Result<Tensor, ModelError> {
        activation::activate(self, activation, input)
    }

    /// The first half of the last axis times the GELU of its second half (GEGLU, arXiv 2002.05202).
    ///
    /// # Shapes
    /// - `input`: `[.., 2 * width]`
    /// - returns: `[.., width]`
    pub fn geglu(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        activation::geglu(self, input)
    }

    /// Nearest neighbour resampling to a given size.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels, height, width]`
    /// - returns: `[batch, channels, target_height, target_width]`
    pub fn upsample_nearest(&self, input: &Tensor, height: usize, width: usize) -> Result<Tensor, ModelError> {
        resample::upsample_nearest(input, height, width)
    }
}
