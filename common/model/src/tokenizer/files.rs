//! Which files a tokenizer is read from, and what they say about special tokens and lengths.

use serde_json::{Map, Value};

use super::TokenizerError;
use crate::checkpoint::Checkpoint;

/// CLIP's number of positions, for a tokenizer that does not say its longest prompt.
const LENGTH: usize = 77;

/// Tokenizers that know no longest prompt say 10^30; no text encoder has as many positions as this.
const LENGTH_LIMIT: u64 = 1 << 16;

/// The contents of a tokenizer's files: at most a few megabytes of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: everything in one file.
    pub tokenizer: Option<String>,
    /// `vocab.json` and `merges.txt`: read where there is no `tokenizer.json`.
    pub vocabulary_and_merges: Option<(String, String)>,
    /// `tokenizer_config.json`.
    pub config: Option<String>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<String>,
}

/// The tokens that frame a prompt, and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) padding: String,
    pub(super) unknown: String,
    pub(super) length: usize,
}

impl TokenizerFiles {
    /// Reads the files in a folder of a checkpoint, such as `tokenizer`.
    pub fn read(checkpoint: &Checkpoint, folder: &str) -> Result<Self, TokenizerError> {
        let optional = |name: &str| {
            let file = format!("{folder}/{name}");
            if checkpoint.exists(&file) { checkpoint.text(&file).map(Some) } else { Ok(None) }
        };
        let tokenizer = optional("tokenizer.json")?;
        let vocabulary_and_merges = match &tokenizer {
            Some(_) => None,
            None => Some((
                checkpoint.text(&format!("{folder}/vocab.json"))?,
                checkpoint.text(&format!("{folder}/merges.txt"))?,
            )),
        };
        let (config, special_tokens) = (optional("tokenizer_config.json")?, optional("special_tokens_map.json")?);
        Ok(Self { tokenizer, vocabulary_and_merges, config, special_tokens })
    }

    /// What the two small files say, with CLIP's values where they say nothing.
    pub(super) fn frame(&self) -> Result<Frame, TokenizerError> {
        let config = object("tokenizer_config.json", self.config.as_deref())?;
        let special = object("special_tokens_map.json", self.special_tokens.as_deref())?;
        // transformers reads the map after the configuration, unless the configuration is of the newer form that lists
        // all added tokens. Stable Diffusion 2 depends on it: only its map says that "!" pads.
        let sources =
            if config.contains_key("added_tokens_decoder") { [&config, &special] } else { [&special, &config] };
        let token = |key: &str, default: &str| {
            let found = sources.iter().find_map(|source| content(source.get(key)?));
            found.unwrap_or(default).to_owned()
        };
        let end = token("eos_token", "<|endoftext|>");
        let length = config.get("model_max_length").and_then(Value::as_u64).filter(|&length| length <= LENGTH_LIMIT);
        let length = length.map_or(LENGTH, |length| length as usize);
        if length < 2 {
            let reason = format!("model_max_length is {length}, and start and end alone are 2");
            return Err(TokenizerError::Unreadable { file: "tokenizer_config.json".to_owned(), reason });
        }
        Ok(Frame {
            start: token("bos_token", "<|startoftext|>"),
            padding: token("pad_token", &end),
            unknown: token("unk_token", &end),
            end,
            length,
        })
    }
}

fn object(file: &str, text: Option<&str>) -> Result<Map<String, Value>, TokenizerError> {
    let parsed = text.map(serde_json::from_str).transpose();
    parsed
        .map(Option::unwrap_or_default)
        .map_err(|error| TokenizerError::Unreadable { file: file.to_owned(), reason: error.to_string() })
}

/// A token is a string, or an object with the string in `content`.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(config: &str, special: &str) -> Frame {
        let files = TokenizerFiles {
            config: Some(config.to_owned()),
            special_tokens: Some(special.to_owned()),
            ..TokenizerFiles::default()
        };
        files.frame().unwrap()
    }

    #[test]
    fn the_map_of_special_tokens_wins_over_an_old_configuration() {
        let stable_diffusion_2 = frame(r#"{"pad_token": "<|endoftext|>"}"#, r#"{"pad_token": "!"}"#);
        assert_eq!(stable_diffusion_2.padding, "!");
        let newer = frame(r#"{"pad_token": "<|endoftext|>", "added_tokens_decoder": {}}"#, r#"{"pad_token": "!"}"#);
        assert_eq!(newer.padding, "<|endoftext|>");
    }

    #[test]
    fn missing_files_mean_clips_own_frame() {
        let frame = TokenizerFiles::default().frame().unwrap();
        assert_eq!((frame.start.as_str(), frame.end.as_str()), ("<|startoftext|>", "<|endoftext|>"));
        assert_eq!((frame.padding.as_str(), frame.length), ("<|endoftext|>", 77));
    }

    #[test]
    fn tokens_may_be_objects_and_lengths_may_be_meaningless() {
        let frame = frame(r#"{"model_max_length": 1e30, "eos_token": {"content": "</s>"}}"#, "{}");
        assert_eq!((frame.end.as_str(), frame.padding.as_str(), frame.length), ("</s>", "</s>", 77));
    }
}
