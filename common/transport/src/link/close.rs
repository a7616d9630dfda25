//! Why links close: what a side says when it closes, and what each side learns.

use asyncdiff_common::codec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{LENGTH_BYTES, Refusal};

/// The most bytes of an encoded [`Farewell`]: it travels in one QUIC close frame, which must fit the smallest packet
/// (1200 bytes) with room for the packet's own fields.
const FAREWELL_LIMIT_BYTES: usize = 900;

/// The most characters of a text in a [`Farewell`], so that the encoded form stays below its limit.
const TEXT_LIMIT_CHARS: usize = 200;

/// What a side says when it closes a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Farewell {
    /// The link is no longer needed.
    #[error("no longer needed")]
    Done,
    /// The last handle of the link was dropped without a word.
    #[error("dropped")]
    Dropped,
    /// The side that closes cannot go on.
    #[error("{reason}")]
    Failed {
        /// Why, for a person to read.
        reason: String,
    },
    /// The other side broke the protocol.
    #[error("{0}")]
    Misbehaviour(Misbehaviour),
    /// A newer link to the same peer took this one's place.
    #[error("replaced by a newer link to the same peer")]
    Superseded,
}

/// How a peer broke the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Misbehaviour {
    /// A frame announced more bytes than frames of its kind may have.
    #[error("sent a {frame} of {found_bytes} bytes, over the limit of {limit_bytes}")]
    FrameTooLong {
        /// Which kind of frame.
        frame: String,
        /// The announced length.
        found_bytes: u64,
        /// The most allowed.
        limit_bytes: u64,
    },
    /// Bytes that are no frame, or a frame in the wrong place.
    #[error("sent a malformed {frame} ({reason})")]
    Malformed {
        /// Which kind of frame was expected.
        frame: String,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// A tensor's stream had another length than its header says.
    #[error("sent {tensor} with {found} and its header says {expected_bytes} bytes")]
    PayloadLength {
        /// The tensor.
        tensor: String,
        /// The header's length.
        expected_bytes: u64,
        /// What came.
        found: String,
    },
    /// A tensor that was not wanted.
    #[error("sent {tensor}, which is refused: {refusal}")]
    Refused {
        /// The tensor.
        tensor: String,
        /// Why it is not wanted.
        refusal: Refusal,
    },
    /// A stream that the protocol does not have.
    #[error("opened a stream that the protocol does not have")]
    UnexpectedStream,
}

/// What a side learns about the end of a link. The first reason stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The peer closed it because of what we sent: a bug, or two builds that differ.
    #[error(
        "the peer closed the link because this side {0}\n\
        hint: run the same build of the program everywhere; if it is, report a bug"
    )]
    AccusedByPeer(Misbehaviour),
    /// The peer closed it.
    #[error("closed by the peer: {0}")]
    ClosedByPeer(Farewell),
    /// This side closed it.
    #[error("closed by this side: {0}")]
    ClosedByUs(Farewell),
    /// The peer is gone or cannot be reached.
    #[error(
        "the peer is lost ({detail})\nhint: see whether its process runs and whether the network between the two works"
    )]
    PeerLost {
        /// What the carrier saw.
        detail: String,
    },
    /// This side closed it because the peer broke the protocol.
    #[error("the peer {0}\nhint: run the same build of the program everywhere")]
    PeerMisbehaved(Misbehaviour),
}

impl Farewell {
    /// A farewell with a text of its own, cut to what fits a close frame.
    #[must_use]
    pub fn failed(reason: &str) -> Self {
        Self::Failed { reason: shortened(reason) }
    }

    /// The bytes of a close frame.
    pub(crate) fn to_wire(&self) -> Bytes {
        let encode = |farewell: &Self| codec::encode(farewell).ok().filter(|bytes| bytes.len() <= FAREWELL_LIMIT_BYTES);
        encode(self).or_else(|| encode(&Self::failed(&self.to_string()))).unwrap_or_default().into()
    }

    /// Reads the bytes of a close frame; never fails, for whoever closes a link badly has closed it all the same. No
    /// bytes come from a connection that was let go of before it became a link.
    pub(crate) fn from_wire(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Dropped;
        }
        codec::decode(bytes).unwrap_or_else(|_| Self::failed(&String::from_utf8_lossy(bytes)))
    }
}

impl Misbehaviour {
    /// The length that goes before a frame of that kind, if it is within the limit: before anything is allocated for it.
    pub(crate) fn checked_length(frame: &str, length: [u8; LENGTH_BYTES], limit_bytes: usize) -> Result<usize, Self> {
        let length = u32::from_le_bytes(length) as usize;
        if length > limit_bytes {
            let (found_bytes, limit_bytes) = (length as u64, limit_bytes as u64);
            return Err(Self::FrameTooLong { frame: frame.to_owned(), found_bytes, limit_bytes });
        }
        Ok(length)
    }

    /// Bytes that are no frame of that kind, or one in the wrong place.
    #[must_use]
    pub fn malformed(frame: &str, reason: &str) -> Self {
        Self::Malformed { frame: frame.to_owned(), reason: shortened(reason) }
    }

    /// A tensor that the receiver refused.
    pub(crate) fn refused(tensor: &str, refusal: Refusal) -> Self {
        Self::Refused { tensor: shortened(tensor), refusal }
    }

    /// A tensor's stream of another length.
    pub(crate) fn payload_length(tensor: &str, expected_bytes: u64, found: String) -> Self {
        Self::PayloadLength { tensor: shortened(tensor), expected_bytes, found }
    }
}

impl CloseReason {
    /// What closing with that farewell means for the side that closes.
    pub(crate) fn on_our_side(farewell: Farewell) -> Self {
        match farewell {
            Farewell::Misbehaviour(misbehaviour) => Self::PeerMisbehaved(misbehaviour),
            other => Self::ClosedByUs(other),
        }
    }

    /// What a farewell means for the side that hears it.
    pub(crate) fn on_their_side(farewell: Farewell) -> Self {
        match farewell {
            Farewell::Misbehaviour(misbehaviour) => Self::AccusedByPeer(misbehaviour),
            other => Self::ClosedByPeer(other),
        }
    }

    /// What is to be said to the peer, if this side is the one that closes.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        match self {
            Self::ClosedByUs(farewell) => Some(farewell.clone()),
            Self::PeerMisbehaved(misbehaviour) => Some(Farewell::Misbehaviour(misbehaviour.clone())),
            Self::AccusedByPeer(_) | Self::ClosedByPeer(_) | Self::PeerLost { .. } => None,
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_LIMIT_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_farewell_survives_the_close_frame() {
        let refusal = Refusal::WrongShape { expected: vec![2, 4, 64, 64], found: vec![1; 6] };
        let farewell = Farewell::Misbehaviour(Misbehaviour::refused("hidden state v3", refusal));
        assert_eq!(Farewell::from_wire(&farewell.to_wire()), farewell);
    }

    #[test]
    fn a_farewell_always_fits_a_close_frame() {
        let refusal = Refusal::WrongShape { expected: vec![u32::MAX; 2000], found: vec![] };
        let wire = Farewell::Misbehaviour(Misbehaviour::refused(&"ü".repeat(5000), refusal)).to_wire();
        assert!(!wire.is_empty() && wire.len() <= FAREWELL_LIMIT_BYTES);
        assert!(matches!(Farewell::from_wire(&wire), Farewell::Failed { .. }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_some_farewell(bytes in prop::collection::vec(any::<u8>(), 0..1200)) {
            Farewell::from_wire(&bytes);
        }
    }
}
