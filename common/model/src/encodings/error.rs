//! What can go wrong between elements and encoded bytes.

use asyncdiff_plan::{ChainError, Instance};
use thiserror::Error;

use crate::ModelError;

/// Why elements could not be encoded, or bytes not decoded.
#[derive(Debug, Error)]
pub enum EncodingError {
    /// A tensor was lost, came twice, or was not planned.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Bytes, or elements, are not as many as belong together.
    #[error("{found} bytes for {elements} elements, which take {expected}")]
    Length {
        /// Elements to encode or decode.
        elements: usize,
        /// Bytes that they take.
        expected: u64,
        /// Bytes that there are.
        found: usize,
    },
    /// No memory, or a value that does not fit.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A register has other rows than what is based on it.
    #[error("{0:?} does not fit what it is based on")]
    Register(Instance),
    /// The plan does not send it on this edge, or not a second time.
    #[error("{0:?} is not planned to travel here, or came twice")]
    Unplanned(Instance),
}

/// Checks that so many bytes belong to so many elements.
pub(super) fn check_length(elements: usize, expected: u64, found: usize) -> Result<(), EncodingError> {
    if expected == found as u64 { Ok(()) } else { Err(EncodingError::Length { elements, expected, found }) }
}
