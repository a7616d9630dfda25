//! The middle of encoder and decoder: two ResNet blocks with attention of one head between them.

use candle_core::Tensor;

use super::block::{Loader, Resnet};
use super::config::MidAttention;
use crate::ModelError;
use crate::kernels::{Activation, Attention, AttentionMask, AttentionSpec, Bias, GroupNorm, Linear, LinearSpec};

pub(super) struct MidBlock {
    first: Resnet,
    attention: Option<SelfAttention>,
    second: Resnet,
}

struct SelfAttention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Attention,
    out: Linear,
}

impl MidBlock {
    /// Loads the block at `path`, such as `decoder.mid_block`.
    pub(super) fn load(
        loader: Loader<'_>,
        channels: usize,
        attention: MidAttention,
        path: &str,
    ) -> Result<Self, ModelError> {
        let resnet = |index| Resnet::load(loader, channels, channels, &format!("{path}.resnets.{index}"));
        let attention = match attention {
            MidAttention::Absent => None,
            MidAttention::Present => Some(SelfAttention::load(loader, channels, &format!("{path}.attentions.0"))?),
        };
        Ok(Self { first: resnet(0)?, attention, second: resnet(1)? })
    }

    /// # Shapes
    /// - `hidden`: `[batch, channels, height, width]`
    /// - returns: the same
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let mut hidden = self.first.forward(hidden)?;
        if let Some(attention) = &self.attention {
            hidden = attention.forward(&hidden)?;
        }
        self.second.forward(&hidden)
    }
}

impl SelfAttention {
    fn load(loader: Loader<'_>, channels: usize, path: &str) -> Result<Self, ModelError> {
        let linear = |name: &str| {
            let spec = LinearSpec { in_features: channels, out_features: channels, bias: Bias::Present };
            loader.kernels.linear(spec, loader.weights, &format!("{path}.{name}"))
        };
        let attention = AttentionSpec { heads: 1, head_width: channels, mask: AttentionMask::None };
        Ok(Self {
            norm: loader.norm(channels, Activation::None, &format!("{path}.group_norm"))?,
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            attention: loader.kernels.attention(attention),
            out: linear("to_out.0")?,
        })
    }

    fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let (_batch, _channels, height, width) = hidden.dims4()?;
        let tokens = self.norm.forward(hidden)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let (query, key, value) =
            (self.query.forward(&tokens)?, self.key.forward(&tokens)?, self.value.forward(&tokens)?);
        let attended = self.out.forward(&self.attention.forward(&query, &key, &value)?)?;
        let (batch, _tokens, channels) = attended.dims3()?;
        Ok((hidden + attended.transpose(1, 2)?.reshape((batch, channels, height, width))?)?)
    }
}
