//! The CLIP text encoder (arXiv 2103.00020), as transformers' `CLIPTextModel` computes it.

use asyncdiff_plan::WeightSpec;
use candle_core::Tensor;

use super::{ClipTextConfig, layer};
use crate::ModelError;
use crate::checkpoint::{StoredTensor, Weights, WeightsError};
use crate::graph::{Convolution, Extent, Graph, GraphBuilder, Parameter};
use crate::kernels::{Kernels, Prepared, Value};

/// A CLIP text encoder with its weights, for one number of tokens.
#[derive(Debug)]
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    kernels: Kernels,
    tokens: usize,
    /// `[vocabulary, width]`
    token_embedding: StoredTensor,
    /// `[positions, width]`
    position_embedding: StoredTensor,
    /// Outputs: the last hidden state, and the one before the last layer.
    layers: Prepared,
    projection: Option<Prepared>,
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
    /// Loads the encoder's weights, for prompts of this many tokens.
    pub fn new(
        config: &ClipTextConfig,
        tokens: usize,
        weights: &dyn Weights,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        let [token_embedding, position_embedding] =
            embeddings(config).map(|embedding| weights.stored(&embedding.name, &embedding.shape));
        let projection = match config.projection {
            Some(channels) => Some(kernels.prepare(projection(config, channels), weights)?),
            None => None,
        };
        Ok(Self {
            config: config.clone(),
            kernels: kernels.clone(),
            tokens,
            token_embedding: token_embedding?,
            position_embedding: position_embedding?,
            layers: kernels.prepare(layers(config, tokens), weights)?,
            projection,
        })
    }

    /// Encodes prompts.
    ///
    /// # Shapes
    /// - `tokens`: `[batch][tokens]`, as many tokens as the encoder was made for and at most as many as there are positions
    /// - returns: see [`TextEncoding`]
    pub fn encode(&self, tokens: &[Vec<u32>]) -> Result<TextEncoding, ModelError> {
        let embedded = self.embed(tokens)?;
        let mut outputs = [const { None }; 2];
        self.layers.run_into(&[&embedded], None, &mut outputs, &mut |_| ())?;
        let device = self.kernels.device();
        let tensor = |output: &Option<Value>| match output {
            Some(value) => value.to_tensor(device),
            None => embedded.to_tensor(device),
        };
        let [last, penultimate] = &outputs;
        let last_hidden_state = tensor(last)?;
        let projected = match &self.projection {
            Some(projection) => {
                let states = self.kernels.value_of(&self.end_states(tokens, &last_hidden_state)?)?;
                Some(projection.run(&[&states])?.to_tensor(device)?)
            }
            None => None,
        };
        Ok(TextEncoding { last_hidden_state, penultimate: tensor(penultimate)?, projected })
    }

    /// The layers between embedding and projection, for benchmarks: `[batch, tokens, width]` in and out.
    #[must_use]
    pub fn layers(&self) -> &Prepared {
        &self.layers
    }

    /// Bytes of the parameters as they are held.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let embeddings = self.token_embedding.bytes.len() + self.position_embedding.bytes.len();
        let projection = self.projection.as_ref().map_or(0, Prepared::resident_bytes);
        embeddings as u64 + self.layers.resident_bytes() + projection
    }

    fn embed(&self, tokens: &[Vec<u32>]) -> Result<Value, ModelError> {
        let (count, width) = (self.tokens, self.config.width);
        if tokens.is_empty()
            || count == 0
            || count > self.config.positions
            || tokens.iter().any(|row| row.len() != count)
        {
            return Err(ModelError::ShapeMismatch {
                layer: "text_model.embeddings".to_owned(),
                operand: "token ids".to_owned(),
                expected: format!("[batch, {count} tokens], at most {} of them", self.config.positions),
                found: tokens.iter().map(Vec::len).collect(),
            });
        }
        let unknown = tokens.iter().flatten().find(|&&id| id as usize >= self.config.vocabulary);
        if let Some(&token) = unknown {
            return Err(ModelError::UnknownToken { token, vocabulary: self.config.vocabulary });
        }
        let mut elements = Vec::with_capacity(tokens.len() * count * width);
        for row in tokens {
            for (position, &id) in row.iter().enumerate() {
                let token = embedding(&self.token_embedding, id as usize)?;
                let place = embedding(&self.position_embedding, position)?;
                elements.extend(token.iter().zip(place).map(|(token, place)| token + place));
            }
        }
        self.kernels.value(&[tokens.len(), count, width], &elements)
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

/// All parameters of the encoder; they do not depend on the number of tokens.
pub(super) fn weight_specs(config: &ClipTextConfig) -> Vec<WeightSpec> {
    let mut specs: Vec<WeightSpec> = embeddings(config).iter().map(Parameter::spec).collect();
    specs.extend(layers(config, 1).parameters());
    if let Some(channels) = config.projection {
        specs.extend(projection(config, channels).parameters());
    }
    specs
}

/// One row of a table; of the stored one, because a prompt needs a few hundredths of it.
fn embedding(table: &StoredTensor, row: usize) -> Result<Vec<f32>, WeightsError> {
    table.row(row).and_then(|row| row.to_f32()).ok_or_else(|| WeightsError::NoFloat {
        source_name: "the text encoder".to_owned(),
        name: "text_model.embeddings".to_owned(),
        dtype: format!("{:?}", table.dtype),
    })
}

/// Of tokens and of positions.
fn embeddings(config: &ClipTextConfig) -> [Parameter; 2] {
    [("token_embedding", config.vocabulary), ("position_embedding", config.positions)].map(|(name, rows)| Parameter {
        name: format!("text_model.embeddings.{name}.weight"),
        shape: vec![rows, config.width],
    })
}

/// # Shapes
/// - input: `[tokens, width]`
/// - outputs: the last hidden state after the final norm, and the output of the layer before the last: `[tokens, width]`. The second is
///   missing where it would be the input.
fn layers(config: &ClipTextConfig, tokens: usize) -> Graph {
    let mut graph = GraphBuilder::new(&[Extent::tokens(tokens, config.width)]);
    let mut hidden = graph.input(0);
    let mut penultimate = None;
    for index in 0..config.layers {
        penultimate = (index > 0).then_some(hidden);
        hidden = layer::build(config, &mut graph, &format!("text_model.encoder.layers.{index}"), hidden);
    }
    let last = graph.layer_norm("text_model.final_layer_norm", hidden, config.epsilon);
    let outputs: Vec<_> = std::iter::once(last).chain(penultimate).collect();
    graph.finish(&outputs)
}

/// # Shapes
/// - input: `[width]`
/// - output: `[channels]`
fn projection(config: &ClipTextConfig, channels: usize) -> Graph {
    let mut graph = GraphBuilder::new(&[Extent::vector(config.width)]);
    let output = graph.convolution("text_projection", &[graph.input(0)], Convolution::linear(channels).without_bias());
    graph.finish(&[output])
}
