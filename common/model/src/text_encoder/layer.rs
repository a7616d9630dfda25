//! One layer of the CLIP text encoder: causal self-attention and an MLP, each behind a layer norm and beside a residual.

use candle_core::Tensor;

use super::ClipTextConfig;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::kernels::{
    Activation, Attention, AttentionMask, AttentionSpec, Bias, Kernels, LayerNorm, LayerNormSpec, Linear, LinearSpec,
};

pub(super) struct ClipLayer {
    kernels: Kernels,
    activation: Activation,
    attention_norm: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention: Attention,
    attention_out: Linear,
    mlp_norm: LayerNorm,
    mlp_in: Linear,
    mlp_out: Linear,
}

impl ClipLayer {
    /// Loads the layer at `path`, such as `text_model.encoder.layers.0`.
    pub(super) fn load(
        config: &ClipTextConfig,
        weights: &dyn Weights,
        kernels: &Kernels,
        path: &str,
    ) -> Result<Self, ModelError> {
        let ClipTextConfig { width, mlp_width, heads, .. } = *config;
        let linear = |in_features, out_features, name: &str| {
            let spec = LinearSpec { in_features, out_features, bias: Bias::Present };
            kernels.linear(spec, weights, &format!("{path}.{name}"))
        };
        let norm = |name: &str| {
            let spec = LayerNormSpec { width, epsilon: config.epsilon };
            kernels.layer_norm(spec, weights, &format!("{path}.{name}"))
        };
        let attention = AttentionSpec { heads, head_width: width / heads, mask: AttentionMask::Causal };
        Ok(Self {
            kernels: kernels.clone(),
            activation: config.activation,
            attention_norm: norm("layer_norm1")?,
            query: linear(width, width, "self_attn.q_proj")?,
            key: linear(width, width, "self_attn.k_proj")?,
            value: linear(width, width, "self_attn.v_proj")?,
            attention: kernels.attention(attention),
            attention_out: linear(width, width, "self_attn.out_proj")?,
            mlp_norm: norm("layer_norm2")?,
            mlp_in: linear(width, mlp_width, "mlp.fc1")?,
            mlp_out: linear(mlp_width, width, "mlp.fc2")?,
        })
    }

    /// # Shapes
    /// - `hidden`: `[batch, tokens, width]`
    /// - returns: the same
    pub(super) fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.attention_norm.forward(hidden)?;
        let (query, key, value) =
            (self.query.forward(&normed)?, self.key.forward(&normed)?, self.value.forward(&normed)?);
        let attended = self.attention_out.forward(&self.attention.forward(&query, &key, &value)?)?;
        let hidden = (hidden + attended)?;
        let wide = self.mlp_in.forward(&self.mlp_norm.forward(&hidden)?)?;
        let narrow = self.mlp_out.forward(&self.kernels.activate(self.activation, &wide)?)?;
        Ok((hidden + narrow)?)
    }
}
