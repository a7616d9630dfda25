//! The seam between a layer's description and its arithmetic: from a [`LayerOp`] and weights to something that computes.

use candle_core::Tensor;

use super::resnet::Resnet;
use super::sampling::{Downsample, Upsample};
use super::simple::{Convolution, Norm, SiluConvolution};
use super::time_embedding::TimeEmbedding;
use super::transformer::Transformer2d;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::families::{ConvOp, LayerOp};
use crate::kernels::{Conv2dSpec, Kernels};

/// A layer with its weights.
pub(super) trait Operation: Send + Sync {
    /// Computes the layer.
    ///
    /// # Shapes
    /// - `operands`: as many as the layer reads, in its order, shapes checked, all with the same number of rows; operands
    ///   without spatial axes may have one row that counts for all
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError>;

    /// Bytes of the parameters as they are held.
    fn resident_bytes(&self) -> u64;
}

/// Where a layer's weights come from and which kernels compute with them.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// The parameters.
    pub(super) weights: &'a dyn Weights,
    /// The kernels, on their device.
    pub(super) kernels: &'a Kernels,
    /// The layer's module path.
    pub(super) path: &'a str,
}

impl Source<'_> {
    /// The path of a module inside the layer.
    pub(super) fn path(&self, module: &str) -> String {
        format!("{}.{module}", self.path)
    }
}

/// Loads the weights of one layer.
pub(super) fn load(op: &LayerOp, source: Source<'_>) -> Result<Box<dyn Operation>, ModelError> {
    Ok(match op {
        LayerOp::TimeEmbedding(op) => Box::new(TimeEmbedding::load(op, source)?),
        LayerOp::Conv2d(op) => Box::new(Convolution::load(op, source)?),
        LayerOp::Resnet(op) => Box::new(Resnet::load(op, source)?),
        LayerOp::Transformer2d(op) => Box::new(Transformer2d::load(op, source)?),
        LayerOp::Downsample { channels } => Box::new(Downsample::load(*channels, source)?),
        LayerOp::Upsample(op) => Box::new(Upsample::load(op, source)?),
        LayerOp::GroupNorm(op) => Box::new(Norm::load(op, source)?),
        LayerOp::SiluConv2d(op) => Box::new(SiluConvolution::load(op, source)?),
    })
}

/// The operands by name. `Component` has compared their number with the layer's description.
pub(super) fn expect<'a, const N: usize>(operands: &[&'a Tensor]) -> Result<[&'a Tensor; N], ModelError> {
    let wrong = |_| candle_core::Error::msg(format!("an operation of {N} operands was given {}", operands.len()));
    Ok(operands.try_into().map_err(wrong)?)
}

/// The kernel's spec for a convolution that keeps height and width.
pub(super) fn conv_spec(op: &ConvOp) -> Conv2dSpec {
    let kernel = op.kernel as usize;
    Conv2dSpec {
        in_channels: op.in_channels as usize,
        out_channels: op.out_channels as usize,
        kernel,
        stride: 1,
        padding: kernel / 2,
    }
}
