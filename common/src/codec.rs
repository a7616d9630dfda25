//! The only place that knows bincode: typed messages to bytes and back, with a bound on what a peer can make us allocate.
//!
//! bincode is pinned to 2.0.1 (3.0 is a tombstone, RUSTSEC-2025-0141 marks the crate unmaintained); another
//! encoding would replace this file and bump the wire version. Tensors never pass through here: raw bytes follow a small header.

use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The largest encoded message, and the most that decoding one may allocate.
///
/// A plan of 1000 steps on 16 components is about 2 MiB and a list of an SDXL's weights 300 KiB; without this limit a hostile length
/// aborts the process.
pub const MESSAGE_LIMIT_BYTES: usize = 16 << 20;

const CONFIGURATION: Configuration<LittleEndian, Varint, Limit<MESSAGE_LIMIT_BYTES>> =
    standard().with_limit::<MESSAGE_LIMIT_BYTES>();

/// Why bytes are no message, or a message no bytes.
#[derive(Debug, Error)]
pub enum CodecError {
    /// The bytes do not decode: truncated, garbled, or of another version.
    #[error("not a message of this protocol version ({reason})")]
    Malformed {
        /// What the decoder said.
        reason: String,
    },
    /// The message decodes but bytes are left over.
    #[error("{0} bytes after the end of the message")]
    TrailingBytes(usize),
    /// The message is longer than [`MESSAGE_LIMIT_BYTES`].
    #[error("a message of {0} bytes is over the limit of {MESSAGE_LIMIT_BYTES}")]
    TooLong(usize),
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, CONFIGURATION)
        .map_err(|error| CodecError::Malformed { reason: error.to_string() })?;
    if bytes.len() > MESSAGE_LIMIT_BYTES { Err(CodecError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Decodes a message that must fill `bytes` exactly.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MESSAGE_LIMIT_BYTES {
        return Err(CodecError::TooLong(bytes.len()));
    }
    let (message, read) = bincode::serde::decode_from_slice(bytes, CONFIGURATION)
        .map_err(|error| CodecError::Malformed { reason: error.to_string() })?;
    if read == bytes.len() { Ok(message) } else { Err(CodecError::TrailingBytes(bytes.len() - read)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_round_trip() {
        let message = (7u64, "name".to_owned(), vec![1u32, 2, 3]);
        let bytes = encode(&message).unwrap();
        assert_eq!(decode::<(u64, String, Vec<u32>)>(&bytes).unwrap(), message);
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = encode(&5u32).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<u32>(&bytes), Err(CodecError::TrailingBytes(1))));
    }

    #[test]
    fn a_hostile_length_is_an_error_and_no_allocation() {
        let mut bytes = vec![253];
        bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Malformed { .. })));
    }
}
