//! From a prompt to token ids, as CLIP's tokenizer makes them.

mod clip;
mod files;

use thiserror::Error;

pub use clip::{ClipTokenizer, TokenizedPrompt};
pub use files::TokenizerFiles;

use crate::checkpoint::CheckpointError;

/// Why there is no tokenizer, or why it refused a prompt.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// A file of the tokenizer is missing or could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The prompt could not be encoded.
    #[error(
        "the tokenizer cannot encode the prompt: {reason}\nhint: the tokenizer's files may be damaged; download them again"
    )]
    Encode {
        /// What the tokenizer said.
        reason: String,
    },
    /// The tokenizer lacks a token that prompts are framed with.
    #[error(
        "{file} has no token {token}, which prompts are framed with\nhint: the tokenizer's files must belong to one checkpoint"
    )]
    MissingToken {
        /// The file of the vocabulary.
        file: String,
        /// The token.
        token: String,
    },
    /// A file of the tokenizer is there, but it is not what its name says.
    #[error("cannot read {file}: {reason}\nhint: the file is damaged; download it again")]
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}
