//! Fully connected layers.

use std::sync::Arc;

use candle_core::Tensor;

use super::{KernelSet, Kernels, cpu};
use crate::ModelError;
use crate::checkpoint::Weights;

/// A fully connected layer over the last axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinearSpec {
    /// Length of the last axis read.
    pub in_features: usize,
    /// Length of the last axis written.
    pub out_features: usize,
    /// Whether a bias is added.
    pub bias: Bias,
}

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bias {
    /// It has none.
    Absent,
    /// It has one.
    Present,
}

/// A fully connected layer ready to compute.
#[derive(Clone, Debug)]
pub struct Linear {
    spec: LinearSpec,
    kernel: LinearKernel,
}

#[derive(Clone, Debug)]
enum LinearKernel {
    /// `weight`: `[out_features, in_features]`, `bias`: `[out_features]`.
    Candle { weight: Tensor, bias: Option<Tensor> },
    /// `weight` as above.
    Cpu { weight: Tensor, bias: Option<Arc<[f32]>> },
}

impl Linear {
    pub(super) fn load(
        kernels: &Kernels,
        spec: LinearSpec,
        weights: &dyn Weights,
        path: &str,
    ) -> Result<Self, ModelError> {
        let shape = [spec.out_features, spec.in_features];
        let weight = weights.tensor(&format!("{path}.weight"), &shape, kernels.device())?;
        let bias = match spec.bias {
            Bias::Absent => None,
            Bias::Present => Some(weights.tensor(&format!("{path}.bias"), &[spec.out_features], kernels.device())?),
        };
        let kernel = match kernels.set {
            KernelSet::Candle => LinearKernel::Candle { weight, bias },
            KernelSet::Cpu => {
                let bias = bias.map(|bias| bias.to_vec1()).transpose()?.map(Arc::from);
                LinearKernel::Cpu { weight, bias }
            }
        };
        Ok(Self { spec, kernel })
    }

    /// Multiplies by the weights and adds the bias.
    ///
    /// # Shapes
    /// - `input`: `[.., in_features]`
    /// - returns: `[.., out_features]`
    pub fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let mut shape = input.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == self.spec.in_features => *last = self.spec.out_features,
            _ => {
                return Err(ModelError::ShapeMismatch {
                    layer: format!("{:?}", self.spec),
                    operand: "input".to_owned(),
                    expected: format!("[.., {}]", self.spec.in_features),
                    found: shape,
                });
            }
        }
        match &self.kernel {
            LinearKernel::Candle { weight, bias } => {
                let rows = input.reshape(((), self.spec.in_features))?;
                let output = rows.matmul(&weight.t()?)?.reshape(shape)?;
                match bias {
                    Some(bias) => Ok(output.broadcast_add(bias)?),
                    None => Ok(output),
                }
            }
            LinearKernel::Cpu { weight, bias } => {
                let operation = cpu::Linear { spec: self.spec, bias: bias.clone() };
                Ok(input.contiguous()?.apply_op2_no_bwd(weight, &operation)?)
            }
        }
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let bias = match self.spec.bias {
            Bias::Absent => 0,
            Bias::Present => self.spec.out_features,
        };
        4 * (self.spec.out_features * self.spec.in_features + bias) as u64
    }
}
