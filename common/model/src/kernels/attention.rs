//! Scaled dot product attention over several heads.

use candle_core::{D, Tensor};

use super::{KernelSet, Kernels, cpu};
use crate::ModelError;

/// Attention of `heads` heads; the scale is `1 / sqrt(head_width)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionSpec {
    /// Heads, side by side in the last axis.
    pub heads: usize,
    /// Width of one head.
    pub head_width: usize,
    /// Which keys a query may see.
    pub mask: AttentionMask,
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionMask {
    /// Those at its own place and before it.
    Causal,
    /// All.
    None,
}

/// Attention ready to compute.
#[derive(Clone, Debug)]
pub struct Attention {
    spec: AttentionSpec,
    set: KernelSet,
}

impl Attention {
    pub(super) fn new(kernels: &Kernels, spec: AttentionSpec) -> Self {
        Self { spec, set: kernels.set }
    }

    /// Softmax of queries times keys, times values.
    ///
    /// # Shapes
    /// - `query`: `[batch, queries, heads * head_width]`
    /// - `key`, `value`: `[batch, keys, heads * head_width]`
    /// - returns: `[batch, queries, heads * head_width]`
    pub fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, queries, width) = query.dims3()?;
        let (key_batch, keys, key_width) = key.dims3()?;
        let causal_fits = self.spec.mask == AttentionMask::None || keys == queries;
        let width_fits = width == self.spec.heads * self.spec.head_width;
        if !width_fits || key_batch != batch || key_width != width || key.dims() != value.dims() || !causal_fits {
            return Err(ModelError::ShapeMismatch {
                layer: format!("{:?}", self.spec),
                operand: format!("keys and values for queries {:?}", query.dims()),
                expected: format!("[batch, tokens, {}]", self.spec.heads * self.spec.head_width),
                found: key.dims().to_vec(),
            });
        }
        match self.set {
            KernelSet::Candle => self.by_candle(query, key, value),
            KernelSet::Cpu => {
                let (key, value) = (key.contiguous()?, value.contiguous()?);
                Ok(query.contiguous()?.apply_op3_no_bwd(&key, &value, &cpu::Attention { spec: self.spec })?)
            }
        }
    }

    fn by_candle(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor, ModelError> {
        let (batch, queries, width) = query.dims3()?;
        let split = |tensor: &Tensor| {
            let (batch, tokens, _width) = tensor.dims3()?;
            tensor.reshape((batch, tokens, self.spec.heads, self.spec.head_width))?.transpose(1, 2)?.contiguous()
        };
        let scale = 1.0 / (self.spec.head_width as f64).sqrt();
        let mut scores = (split(query)?.matmul(&split(key)?.t()?.contiguous()?)? * scale)?;
        if self.spec.mask == AttentionMask::Causal {
            let hidden = |index| if index % queries > index / queries { f32::NEG_INFINITY } else { 0.0 };
            let mask: Vec<f32> = (0..queries * queries).map(hidden).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(mask, (queries, queries), query.device())?)?;
        }
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        Ok(weights.matmul(&split(value)?)?.transpose(1, 2)?.reshape((batch, queries, width))?)
    }
}
