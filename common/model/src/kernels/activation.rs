//! Activation functions.

use candle_core::{D, Tensor};

use super::{KernelSet, Kernels, cpu};
use crate::ModelError;

/// An activation function, by the name that configurations use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * Φ(x)` with the exact error function, not the tanh approximation.
    Gelu,
    /// The identity.
    None,
    /// `x * sigmoid(1.702 x)`: CLIP's.
    QuickGelu,
    /// `x * sigmoid(x)`.
    Silu,
}

pub(super) fn activate(kernels: &Kernels, activation: Activation, input: &Tensor) -> Result<Tensor, ModelError> {
    if activation == Activation::None {
        return Ok(input.clone());
    }
    match kernels.set {
        KernelSet::Candle => Ok(match activation {
            Activation::Gelu => input.gelu_erf()?,
            Activation::None => input.clone(),
            Activation::QuickGelu => (input * sigmoid(&(input * 1.702)?)?)?,
            Activation::Silu => input.silu()?,
        }),
        KernelSet::Cpu => Ok(input.contiguous()?.apply_op1_no_bwd(&cpu::Activate { activation })?),
    }
}

pub(super) fn geglu(kernels: &Kernels, input: &Tensor) -> Result<Tensor, ModelError> {
    let double = input.dim(D::Minus1)?;
    if !double.is_multiple_of(2) {
        return Err(ModelError::ShapeMismatch {
            layer: "geglu".to_owned(),
            operand: "input".to_owned(),
            expected: "[.., 2 * width]".to_owned(),
            found: input.dims().to_vec(),
        });
    }
    match kernels.set {
        KernelSet::Candle => {
            let width = double / 2;
            let gate = input.narrow(D::Minus1, width, width)?.gelu_erf()?;
            Ok((input.narrow(D::Minus1, 0, width)? * gate)?)
        }
        KernelSet::Cpu => Ok(input.contiguous()?.apply_op1_no_bwd(&cpu::Geglu)?),
    }
}

fn sigmoid(input: &Tensor) -> candle_core::Result<Tensor> {
    (input.neg()?.exp()? + 1.0)?.recip()
}
