//! The CLIP text encoder (arXiv 2103.00020), as transformers' `CLIPTextModel` computes it.

use candle_core::{Device, Tensor};

use super::ClipTextConfig;
use super::layer::ClipLayer;
use crate::ModelError;
use crate::checkpoint::Weights;
use crate::kernels::{Bias, Kernels, LayerNorm, LayerNormSpec, Linear, LinearSpec};

/// A CLIP text encoder with its weights.
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    device: Device,
    /// `[vocabulary, width]`
    token_embedding: Tensor,
    /// `[positions, width]`
    position_embedding: Tensor,
    layers: Vec<ClipLayer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
}

/// What a text encoder makes of a batch of prompts.
#[derive(Clone, Debug)]
pub struct TextEncoding {
    /// The last layer's output after the final norm: `[batch, tokens, width]`. Stable Diffusion's encoder hidden states.
    pub last_hidden_state: Tensor,
    /// The output of the layer before the last, without the final norm: `[batch, tokens, width]`.
    pub penultimate: Tensor,
    /// The end token's hidden state, projected: `[batch, projection]`; for encoders that have a projection.
    pub projected: Option<Tensor>,
}

impl ClipTextEncoder {
    /// Loads the encoder's weights onto the kernels' device.
    pub fn new(config: &ClipTextConfig, weights: &dyn Weights, kernels: &Kernels) -> Result<Self, ModelError> {
        let device = kernels.device().clone();
        let embedding = |name: &str, rows: usize| {
            weights.tensor(&format!("text_model.embeddings.{name}.weight"), &[rows, config.width], &device)
        };
        let token_embedding = embedding("token_embedding", config.vocabulary)?;
        let position_embedding = embedding("position_embedding", config.positions)?;
        let layer = |index| ClipLayer::load(config, weights, kernels, &format!("text_model.encoder.layers.{index}"));
        let layers = (0..config.layers).map(layer).collect::<Result<_, _>>()?;
        let final_norm = LayerNormSpec { width: config.width, epsilon: config.epsilon };
        let final_norm = kernels.layer_norm(final_norm, weights, "text_model.final_layer_norm")?;
        let projection = match config.projection {
            Some(out_features) => {
                let spec = LinearSpec { in_features: config.width, out_features, bias: Bias::Absent };
                Some(kernels.linear(spec, weights, "text_projection")?)
            }
            None => None,
        };
        Ok(Self { config: config.clone(), device, token_embedding, position_embedding, layers, final_norm, projection })
    }

    /// Encodes prompts of equal numbers of tokens.
    ///
    /// # Shapes
    /// - `tokens`: `[batch][tokens]`, at most as many tokens as there are positions
    /// - returns: see [`TextEncoding`]
    pub fn encode(&self, tokens: &[Vec<u32>]) -> Result<TextEncoding, ModelError> {
        let mut hidden = self.embed(tokens)?;
        let mut penultimate = hidden.clone();
        for layer in &self.layers {
            penultimate = hidden.clone();
            hidden = layer.forward(&hidden)?;
        }
        let last_hidden_state = self.final_norm.forward(&hidden)?;
        let projected = match &self.projection {
            Some(projection) => Some(projection.forward(&self.end_states(tokens, &last_hidden_state)?)?),
            None => None,
        };
        Ok(TextEncoding { last_hidden_state, penultimate, projected })
    }

    fn embed(&self, tokens: &[Vec<u32>]) -> Result<Tensor, ModelError> {
        let batch = tokens.len();
        let count = tokens.first().map_or(0, Vec::len);
        if count == 0 || count > self.config.positions || tokens.iter().any(|row| row.len() != count) {
            return Err(ModelError::ShapeMismatch {
                layer: "text_model.embeddings".to_owned(),
                operand: "token ids".to_owned(),
                expected: format!("[batch, 1 to {} tokens, all rows equally long]", self.config.positions),
                found: tokens.iter().map(Vec::len).collect(),
            });
        }
        let ids: Vec<u32> = tokens.iter().flatten().copied().collect();
        if let Some(&token) = ids.iter().find(|&&id| id as usize >= self.config.vocabulary) {
            return Err(ModelError::UnknownToken { token, vocabulary: self.config.vocabulary });
        }
        let ids = Tensor::from_vec(ids, batch * count, &self.device)?;
        let embedded = self.token_embedding.index_select(&ids, 0)?.reshape((batch, count, self.config.width))?;
        Ok(embedded.broadcast_add(&self.position_embedding.narrow(0, 0, count)?)?)
    }

    /// The hidden states of each row's end token.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, tokens, width]`
    /// - returns: `[batch, width]`
    fn end_states(&self, tokens: &[Vec<u32>], hidden: &Tensor) -> Result<Tensor, ModelError> {
        let mut rows = Vec::with_capacity(tokens.len());
        for (row, ids) in tokens.iter().enumerate() {
            // Like the argmax of transformers: the first of several, and the first token where there is none.
            let end = match self.config.end_token {
                Some(end) => ids.iter().position(|&id| id == end),
                None => ids.iter().max().and_then(|largest| ids.iter().position(|id| id == largest)),
            };
            rows.push(hidden.get(row)?.get(end.unwrap_or(0))?);
        }
        Ok(Tensor::stack(&rows, 0)?)
    }
}
