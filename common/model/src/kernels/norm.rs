//! Group and layer normalisation.

use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{Activation, KernelSet, Kernels, activation, cpu};
use crate::ModelError;
use crate::checkpoint::Weights;

/// Group normalisation (arXiv 1803.08494) followed by an activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormSpec {
    /// Groups that the channels are divided into.
    pub groups: usize,
    /// Channels; a multiple of the groups.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Applied to the result.
    pub activation: Activation,
}

/// Layer normalisation (arXiv 1607.06450) over the last axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormSpec {
    /// Length of the last axis.
    pub width: usize,
    /// Added to the variance.
    pub epsilon: f32,
}

/// A group normalisation ready to compute.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    spec: GroupNormSpec,
    kernels: Kernels,
    parameters: NormParameters,
}

/// A layer normalisation ready to compute.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    spec: LayerNormSpec,
    parameters: NormParameters,
}

#[derive(Clone, Debug)]
enum NormParameters {
    /// Both `[channels]`.
    Candle { scale: Tensor, shift: Tensor },
    /// Both of as many elements as there are channels.
    Cpu { scale: Arc<[f32]>, shift: Arc<[f32]> },
}

impl NormParameters {
    fn load(kernels: &Kernels, channels: usize, weights: &dyn Weights, path: &str) -> Result<Self, ModelError> {
        let scale = weights.tensor(&format!("{path}.weight"), &[channels], kernels.device())?;
        let shift = weights.tensor(&format!("{path}.bias"), &[channels], kernels.device())?;
        Ok(match kernels.set {
            KernelSet::Candle => Self::Candle { scale, shift },
            KernelSet::Cpu => Self::Cpu { scale: scale.to_vec1()?.into(), shift: shift.to_vec1()?.into() },
        })
    }
}

impl GroupNorm {
    pub(super) fn load(
        kernels: &Kernels,
        spec: GroupNormSpec,
        weights: &dyn Weights,
        path: &str,
    ) -> Result<Self, ModelError> {
        if spec.groups == 0 || !spec.channels.is_multiple_of(spec.groups) {
            return Err(ModelError::ShapeMismatch {
                layer: path.to_owned(),
                operand: "weight".to_owned(),
                expected: format!("[a multiple of {} groups]", spec.groups),
                found: vec![spec.channels],
            });
        }
        let parameters = NormParameters::load(kernels, spec.channels, weights, path)?;
        Ok(Self { spec, kernels: kernels.clone(), parameters })
    }

    /// Normalises and activates.
    ///
    /// # Shapes
    /// - `input`: `[batch, channels, ..]`
    /// - returns: the same
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let GroupNormSpec { groups, channels, epsilon, activation } = self.spec;
        let shape = input.dims();
        let batch = match shape {
            [batch, found, ..] if *found == channels => *batch,
            _ => return Err(mismatch(format!("{:?}", self.spec), format!("[batch, {channels}, ..]"), input)),
        };
        match &self.parameters {
            NormParameters::Candle { scale, shift } => {
                let grouped = input.reshape((batch, groups, ()))?;
                let normalised = standardise(&grouped, epsilon)?.reshape((batch, channels, ()))?;
                let scaled = normalised.broadcast_mul(&scale.reshape((1, channels, 1))?)?;
                let shifted = scaled.broadcast_add(&shift.reshape((1, channels, 1))?)?.reshape(shape)?;
                activation::activate(&self.kernels, activation, &shifted)
            }
            NormParameters::Cpu { scale, shift } => {
                let operation = cpu::GroupNorm { spec: self.spec, scale: scale.clone(), shift: shift.clone() };
                Ok(input.contiguous()?.apply_op1_no_bwd(&operation)?)
            }
        }
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        8 * self.spec.channels as u64
    }
}

impl LayerNorm {
    pub(super) fn load(
        kernels: &Kernels,
        spec: LayerNormSpec,
        weights: &dyn Weights,
        path: &str,
    ) -> Result<Self, ModelError> {
        Ok(Self { spec, parameters: NormParameters::load(kernels, spec.width, weights, path)? })
    }

    /// Normalises the last axis.
    ///
    /// # Shapes
    /// - `input`: `[.., width]`
    /// - returns: the same
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        if input.dims().last() != Some(&self.spec.width) {
            return Err(mismatch(format!("{:?}", self.spec), format!("[.., {}]", self.spec.width), input));
        }
        match &self.parameters {
            NormParameters::Candle { scale, shift } => {
                Ok(standardise(input, self.spec.epsilon)?.broadcast_mul(scale)?.broadcast_add(shift)?)
            }
            NormParameters::Cpu { scale, shift } => {
                let operation = cpu::LayerNorm { spec: self.spec, scale: scale.clone(), shift: shift.clone() };
                Ok(input.contiguous()?.apply_op1_no_bwd(&operation)?)
            }
        }
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        8 * self.spec.width as u64
    }
}

/// Mean 0 and variance 1 along the last axis.
fn standardise(input: &Tensor, epsilon: f32) -> Result<Tensor, ModelError> {
    let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + f64::from(epsilon))?.sqrt()?)?)
}

fn mismatch(layer: String, expected: String, input: &Tensor) -> ModelError {
    ModelError::ShapeMismatch { layer, operand: "input".to_owned(), expected, found: input.dims().to_vec() }
}
