//! The text encoder's side of a checkpoint: tokenizer, configuration, parameters.

use asyncdiff_model::checkpoint::Checkpoint;
use asyncdiff_model::tokenizer::{ClipTokenizer, TokenizerFiles};

use super::part::Part;
use super::{ClipTextConfig, StoreError};

const CONFIG_FILE: &str = "text_encoder/config.json";

pub(super) struct TextPart {
    tokenizer: ClipTokenizer,
    config: ClipTextConfig,
    part: Part,
}

/// Rows of token ids, with what the user should know about them.
pub(super) struct Tokens {
    pub(super) rows: Vec<Vec<u32>>,
    pub(super) warnings: Vec<String>,
}

impl TextPart {
    pub(super) fn open(checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        let text = checkpoint.text(CONFIG_FILE)?;
        let config = ClipTextConfig::from_json(CONFIG_FILE, &text).map_err(StoreError::Config)?;
        let tokenizer = ClipTokenizer::new(&TokenizerFiles::read(checkpoint, "tokenizer")?)?;
        let weights = Box::new(checkpoint.weights("text_encoder")?);
        let part = Part::new("text_encoder", text, weights, config.weight_specs());
        Ok(Self { tokenizer, config, part })
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Width of the encoder hidden states.
    pub(super) fn width(&self) -> u32 {
        self.config.width as u32
    }

    /// Tokens of every encoded prompt.
    pub(super) fn length(&self) -> u32 {
        self.tokenizer.length() as u32
    }

    /// Tokenises texts, each with what it is called in warnings.
    pub(super) fn tokenize(&self, texts: &[(&str, &str)]) -> Result<Tokens, StoreError> {
        let mut tokens = Tokens { rows: Vec::new(), warnings: Vec::new() };
        for (what, text) in texts {
            let tokenized = self.tokenizer.encode(text)?;
            if let Some(cut) = tokenized.cut {
                let length = self.length();
                tokens.warnings.push(format!("the {what} has more than {length} tokens; cut off: {cut:?}"));
            }
            tokens.rows.push(tokenized.ids);
        }
        Ok(tokens)
    }
}
