//! The configuration of a CLIP text encoder, as `text_encoder/config.json` holds it.

use asyncdiff_plan::WeightSpec;
use serde::Deserialize;

use super::clip;
use crate::ConfigError;
use crate::graph::Activation;

/// The largest width, depth or vocabulary that is taken for meant: 20 times those of the largest CLIP there is.
const SIZE_LIMIT: usize = 1 << 20;

/// The end-of-text id that transformers wrote by mistake; with it, the end is the largest id.
const MISTAKEN_END: u32 = 2;

/// Which CLIP text encoder it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// Number of token ids.
    pub vocabulary: usize,
    /// Width of the hidden states.
    pub width: usize,
    /// Width inside of a layer's MLP.
    pub mlp_width: usize,
    /// Number of layers.
    pub layers: usize,
    /// Attention heads per layer.
    pub heads: usize,
    /// The longest sequence of tokens.
    pub positions: usize,
    /// The MLP's activation.
    pub activation: Activation,
    /// Added to the variance in layer norms.
    pub epsilon: f32,
    /// The width of the projected output, for encoders that have one.
    pub projection: Option<usize>,
    /// The end-of-text token, whose hidden state is projected; `None` where the largest id is the end.
    pub end_token: Option<u32>,
}

/// The file's keys, with the defaults of transformers.
#[derive(Deserialize)]
#[serde(default)]
struct File {
    architectures: Option<Vec<String>>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    eos_token_id: u32,
}

impl Default for File {
    fn default() -> Self {
        Self {
            architectures: None,
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: "quick_gelu".to_owned(),
            layer_norm_eps: 1e-5,
            eos_token_id: 49407,
        }
    }
}

impl ClipTextConfig {
    /// Reads the configuration; `file` names it in errors.
    pub fn from_json(file: &str, text: &str) -> Result<Self, ConfigError> {
        let keys: File = serde_json::from_str(text).map_err(|error| ConfigError::unreadable(file, &error))?;
        let projection = match keys.architectures.as_ref().and_then(|classes| classes.first()).map(String::as_str) {
            None | Some("CLIPTextModel") => None,
            Some("CLIPTextModelWithProjection") => Some(keys.projection_dim),
            Some(other) => {
                let expected = "supported are CLIPTextModel and CLIPTextModelWithProjection";
                return Err(ConfigError::new(file, "architectures", other, expected));
            }
        };
        let activation = match keys.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "quick_gelu" => Activation::QuickGelu,
            other => return Err(ConfigError::new(file, "hidden_act", other, "supported are gelu and quick_gelu")),
        };
        keys.check_sizes(file)?;
        Ok(Self {
            vocabulary: keys.vocab_size,
            width: keys.hidden_size,
            mlp_width: keys.intermediate_size,
            layers: keys.num_hidden_layers,
            heads: keys.num_attention_heads,
            positions: keys.max_position_embeddings,
            activation,
            epsilon: keys.layer_norm_eps,
            projection,
            end_token: (keys.eos_token_id != MISTAKEN_END).then_some(keys.eos_token_id),
        })
    }

    /// The parameters that the encoder needs, with their names in the checkpoint.
    #[must_use]
    pub fn weight_specs(&self) -> Vec<WeightSpec> {
        clip::weight_specs(self)
    }
}

impl File {
    fn check_sizes(&self, file: &str) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        for (key, size) in sizes {
            if size == 0 || size > SIZE_LIMIT {
                return Err(ConfigError::new(file, key, size, format!("a number from 1 to {SIZE_LIMIT} is needed")));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected = format!("a divisor of hidden_size {} is needed", self.hidden_size);
            return Err(ConfigError::new(file, "num_attention_heads", self.num_attention_heads, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> ConfigError {
        ClipTextConfig::from_json("text_encoder/config.json", text).unwrap_err()
    }

    #[test]
    fn an_empty_configuration_is_transformers_default() {
        let config = ClipTextConfig::from_json("text_encoder/config.json", "{}").unwrap();
        assert_eq!((config.vocabulary, config.width, config.layers, config.positions), (49408, 512, 12, 77));
        assert_eq!((config.activation, config.end_token), (Activation::QuickGelu, Some(49407)));
    }

    #[test]
    fn what_is_unsupported_is_named() {
        assert_eq!(error_of(r#"{"hidden_act": "relu"}"#).key, "hidden_act");
        assert_eq!(error_of(r#"{"architectures": ["T5EncoderModel"]}"#).found, "T5EncoderModel");
        assert_eq!(error_of(r#"{"num_attention_heads": 7}"#).key, "num_attention_heads");
        assert_eq!(error_of(r#"{"vocab_size": 0}"#).key, "vocab_size");
        assert_eq!(error_of(r#"{"hidden_size": "wide"}"#).key, "(file)");
        assert_eq!(error_of("[").key, "(file)");
    }
}
