//! CLIP's tokenizer: byte pairs of lower-cased words, framed by a start and an end token, padded to a fixed length.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::files::Frame;
use super::{TokenizerError, TokenizerFiles};

/// What CLIP takes for a word: contractions, letters, one digit, other characters.
const WORD: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Marks the last byte pair of a word.
const END_OF_WORD: &str = "</w>";

/// A tokenizer for one checkpoint.
pub struct ClipTokenizer {
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    padding: u32,
    length: usize,
}

/// A prompt's token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizedPrompt {
    /// Start, words, end, padding: always as many as the text encoder has positions.
    pub ids: Vec<u32>,
    /// The end of the prompt that did not fit, as it was written.
    pub cut: Option<String>,
}

impl ClipTokenizer {
    /// Builds the tokenizer from its files' contents.
    pub fn new(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let frame = files.frame()?;
        let (file, mut tokenizer) = match (&files.tokenizer, &files.vocabulary_and_merges) {
            (Some(text), _) => ("tokenizer.json", from_tokenizer_json(text)?),
            (None, Some((vocabulary, merges))) => ("vocab.json", from_vocabulary(vocabulary, merges, &frame)?),
            (None, None) => {
                let reason = "neither it nor vocab.json and merges.txt are there".to_owned();
                return Err(TokenizerError::Unreadable { file: "tokenizer.json".to_owned(), reason });
            }
        };
        // Framing, padding and cutting are done here, so that what is cut can be named.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| TokenizerError::Unreadable { file: file.to_owned(), reason: error.to_string() })?;
        let id = |token: &str| {
            let missing = || TokenizerError::MissingToken { file: file.to_owned(), token: token.to_owned() };
            tokenizer.token_to_id(token).ok_or_else(missing)
        };
        let (start, end, padding) = (id(&frame.start)?, id(&frame.end)?, id(&frame.padding)?);
        Ok(Self { tokenizer, start, end, padding, length: frame.length })
    }

    /// The length of every tokenised prompt.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Encodes a prompt; what is beyond the length is cut and named.
    pub fn encode(&self, prompt: &str) -> Result<TokenizedPrompt, TokenizerError> {
        let encoding = self
            .tokenizer
            .encode(prompt, false)
            .map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        let room = self.length - 2;
        let words = encoding.get_ids();
        let kept = &words[..words.len().min(room)];
        let mut ids = Vec::with_capacity(self.length);
        ids.push(self.start);
        ids.extend_from_slice(kept);
        ids.push(self.end);
        ids.resize(self.length, self.padding);
        // The offsets are of the prompt as it was written, before lower-casing.
        let first_cut = encoding.get_offsets().get(room).map(|&(start, _)| start);
        let cut = first_cut.and_then(|start| prompt.get(start..)).map(|text| text.trim().to_owned());
        Ok(TokenizedPrompt { ids, cut })
    }
}

fn from_tokenizer_json(text: &str) -> Result<Tokenizer, TokenizerError> {
    let unreadable = |reason| TokenizerError::Unreadable { file: "tokenizer.json".to_owned(), reason };
    Tokenizer::from_bytes(text).map_err(|error| unreadable(error.to_string()))
}

/// The tokenizer that a `tokenizer.json` of CLIP describes, from the two older files.
fn from_vocabulary(vocabulary: &str, merges: &str, frame: &Frame) -> Result<Tokenizer, TokenizerError> {
    let unreadable = |file: &str, reason: String| TokenizerError::Unreadable { file: file.to_owned(), reason };
    let vocabulary: HashMap<String, u32> =
        serde_json::from_str(vocabulary).map_err(|error| unreadable("vocab.json", error.to_string()))?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), read_merges(merges)?)
        .unk_token(frame.unknown.clone())
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .build()
        .map_err(|error| unreadable("merges.txt", error.to_string()))?;
    let mut tokenizer = Tokenizer::new(bpe);
    let wrong_pattern = |error: tokenizers::Error| unreadable("the pattern of words", error.to_string());
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_owned()), " ");
    let normalizer = Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces.map_err(wrong_pattern)?),
        NormalizerWrapper::Lowercase(Lowercase),
    ]);
    tokenizer.with_normalizer(Some(normalizer)).map_err(wrong_pattern)?;
    let words = Split::new(SplitPattern::Regex(WORD.to_owned()), SplitDelimiterBehavior::Removed, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        PreTokenizerWrapper::Split(words.map_err(wrong_pattern)?),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    let special = [&frame.start, &frame.end].map(|token| AddedToken::from(token.clone(), true).normalized(false));
    tokenizer.add_special_tokens(special).map_err(|error| unreadable("special_tokens_map.json", error.to_string()))?;
    Ok(tokenizer)
}

/// The pairs of `merges.txt`: two byte pairs per line, after a line with the version.
fn read_merges(text: &str) -> Result<Vec<(String, String)>, TokenizerError> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|(index, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(TokenizerError::Unreadable {
                file: "merges.txt".to_owned(),
                reason: format!("line {} has not two parts: {line:?}", index + 1),
            }),
        })
        .collect()
}
