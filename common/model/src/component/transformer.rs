//! Transformer blocks over the pixels of a hidden state, as diffusers' `Transformer2DModel` computes them.

use candle_core::Tensor;

use super::operation::{Operation, Source, expect};
use crate::ModelError;
use crate::families::TransformerOp;
use crate::kernels::{
    Activation, Attention, AttentionMask, AttentionSpec, Bias, Conv2d, Conv2dSpec, GroupNorm, GroupNormSpec, Kernels,
    LayerNorm, LayerNormSpec, Linear, LinearSpec,
};

/// Norm, projection, blocks, projection, and a residual connection around all of it.
pub(super) struct Transformer2d {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<Block>,
    proj_out: Projection,
}

/// A projection of every pixel; older checkpoints store it as a 1×1 convolution.
enum Projection {
    Linear(Linear),
    Convolution(Conv2d),
}

/// Self-attention, cross attention and feed-forward, each after a layer norm and inside a residual connection.
struct Block {
    kernels: Kernels,
    norm1: LayerNorm,
    attn1: AttentionLayer,
    norm2: LayerNorm,
    attn2: AttentionLayer,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
    only_cross_attention: bool,
}

/// Queries from the hidden state, keys and values from a context.
struct AttentionLayer {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    attention: Attention,
}

impl Transformer2d {
    pub(super) fn load(op: &TransformerOp, source: Source<'_>) -> Result<Self, ModelError> {
        let norm = GroupNormSpec {
            groups: op.groups as usize,
            channels: op.channels as usize,
            epsilon: TransformerOp::GROUP_NORM_EPSILON as f32,
            activation: Activation::None,
        };
        let (channels, inner) = (op.channels as usize, op.inner_width() as usize);
        let projection = |name: &str, from, to| Projection::load(op.linear_projection, [from, to], source, name);
        Ok(Self {
            norm: source.kernels.group_norm(norm, source.weights, &source.path("norm"))?,
            proj_in: projection("proj_in", channels, inner)?,
            blocks: (0..op.blocks).map(|index| Block::load(op, source, index)).collect::<Result<_, _>>()?,
            proj_out: projection("proj_out", inner, channels)?,
        })
    }
}

impl Operation for Transformer2d {
    /// # Shapes
    /// - `operands`: hidden state `[batch, channels, height, width]`, encoder hidden states `[batch, tokens, cross_width]`
    /// - returns: `[batch, channels, height, width]`
    fn forward(&self, operands: &[&Tensor]) -> Result<Tensor, ModelError> {
        let [hidden, context] = expect(operands)?;
        let (_batch, _channels, height, width) = hidden.dims4()?;
        let mut tokens = self.proj_in.to_tokens(&self.norm.forward(hidden)?)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, context)?;
        }
        Ok((self.proj_out.to_pixels(&tokens, height, width)? + hidden)?)
    }

    fn resident_bytes(&self) -> u64 {
        let blocks: u64 = self.blocks.iter().map(Block::resident_bytes).sum();
        self.norm.resident_bytes() + self.proj_in.resident_bytes() + blocks + self.proj_out.resident_bytes()
    }
}

impl Projection {
    fn load(linear: bool, [from, to]: [usize; 2], source: Source<'_>, name: &str) -> Result<Self, ModelError> {
        let path = source.path(name);
        if linear {
            let spec = LinearSpec { in_features: from, out_features: to, bias: Bias::Present };
            return Ok(Self::Linear(source.kernels.linear(spec, source.weights, &path)?));
        }
        Ok(Self::Convolution(source.kernels.conv2d(Conv2dSpec::pointwise(from, to), source.weights, &path)?))
    }

    /// # Shapes
    /// - `hidden`: `[batch, channels, height, width]`
    /// - returns: `[batch, height * width, inner]`
    fn to_tokens(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let tokens = |pixels: &Tensor| pixels.flatten_from(2)?.transpose(1, 2)?.contiguous();
        match self {
            Self::Linear(linear) => linear.forward(&tokens(hidden)?),
            Self::Convolution(conv) => Ok(tokens(&conv.forward(hidden)?)?),
        }
    }

    /// # Shapes
    /// - `tokens`: `[batch, height * width, inner]`
    /// - returns: `[batch, channels, height, width]`
    fn to_pixels(&self, tokens: &Tensor, height: usize, width: usize) -> Result<Tensor, ModelError> {
        let pixels = |tokens: &Tensor| {
            let (batch, _pixels, channels) = tokens.dims3()?;
            tokens.transpose(1, 2)?.reshape((batch, channels, height, width))
        };
        match self {
            Self::Linear(linear) => Ok(pixels(&linear.forward(tokens)?)?),
            Self::Convolution(conv) => conv.forward(&pixels(tokens)?),
        }
    }

    fn resident_bytes(&self) -> u64 {
        match self {
            Self::Linear(linear) => linear.resident_bytes(),
            Self::Convolution(conv) => conv.resident_bytes(),
        }
    }
}

impl Block {
    fn load(op: &TransformerOp, source: Source<'_>, index: u32) -> Result<Self, ModelError> {
        let Source { weights, kernels, .. } = source;
        let inner = op.inner_width() as usize;
        let wide = inner * TransformerOp::FEED_FORWARD_FACTOR as usize;
        let path = |name: &str| source.path(&format!("transformer_blocks.{index}.{name}"));
        let norm = |name: &str| {
            let spec = LayerNormSpec { width: inner, epsilon: TransformerOp::LAYER_NORM_EPSILON as f32 };
            kernels.layer_norm(spec, weights, &path(name))
        };
        let linear = |name: &str, in_features, out_features| {
            kernels.linear(LinearSpec { in_features, out_features, bias: Bias::Present }, weights, &path(name))
        };
        Ok(Self {
            kernels: kernels.clone(),
            norm1: norm("norm1")?,
            attn1: AttentionLayer::load(op, op.only_cross_attention, source, &path("attn1"))?,
            norm2: norm("norm2")?,
            attn2: AttentionLayer::load(op, true, source, &path("attn2"))?,
            norm3: norm("norm3")?,
            ff_in: linear("ff.net.0.proj", inner, 2 * wide)?,
            ff_out: linear("ff.net.2", wide, inner)?,
            only_cross_attention: op.only_cross_attention,
        })
    }

    /// # Shapes
    /// - `hidden`: `[batch, pixels, inner]`
    /// - `context`: `[batch, tokens, cross_width]`
    /// - returns: `[batch, pixels, inner]`
    fn forward(&self, hidden: &Tensor, context: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.norm1.forward(hidden)?;
        let first_context = if self.only_cross_attention { context } else { &normed };
        let hidden = (self.attn1.forward(&normed, first_context)? + hidden)?;
        let hidden = (self.attn2.forward(&self.norm2.forward(&hidden)?, context)? + hidden)?;
        let gated = self.kernels.geglu(&self.ff_in.forward(&self.norm3.forward(&hidden)?)?)?;
        Ok((self.ff_out.forward(&gated)? + hidden)?)
    }

    fn resident_bytes(&self) -> u64 {
        let norms = [&self.norm1, &self.norm2, &self.norm3].map(LayerNorm::resident_bytes).iter().sum::<u64>();
        let attentions = self.attn1.resident_bytes() + self.attn2.resident_bytes();
        norms + attentions + self.ff_in.resident_bytes() + self.ff_out.resident_bytes()
    }
}

impl AttentionLayer {
    fn load(op: &TransformerOp, cross: bool, source: Source<'_>, path: &str) -> Result<Self, ModelError> {
        let inner = op.inner_width() as usize;
        let context = if cross { op.cross_width as usize } else { inner };
        let linear = |name: &str, in_features: usize, bias: Bias| {
            let spec = LinearSpec { in_features, out_features: inner, bias };
            source.kernels.linear(spec, source.weights, &format!("{path}.{name}"))
        };
        let (heads, head_width) = (op.heads as usize, op.head_width as usize);
        Ok(Self {
            to_q: linear("to_q", inner, Bias::Absent)?,
            to_k: linear("to_k", context, Bias::Absent)?,
            to_v: linear("to_v", context, Bias::Absent)?,
            to_out: linear("to_out.0", inner, Bias::Present)?,
            attention: source.kernels.attention(AttentionSpec { heads, head_width, mask: AttentionMask::None }),
        })
    }

    /// # Shapes
    /// - `hidden`: `[batch, pixels, inner]`
    /// - `context`: `[batch, tokens, context]`
    /// - returns: `[batch, pixels, inner]`
    fn forward(&self, hidden: &Tensor, context: &Tensor) -> Result<Tensor, ModelError> {
        let (query, key, value) =
            (self.to_q.forward(hidden)?, self.to_k.forward(context)?, self.to_v.forward(context)?);
        self.to_out.forward(&self.attention.forward(&query, &key, &value)?)
    }

    fn resident_bytes(&self) -> u64 {
        [&self.to_q, &self.to_k, &self.to_v, &self.to_out].map(Linear::resident_bytes).iter().sum()
    }
}
