//! What the two ends of a lane say on its socket: four bytes of length (little endian), then a message.

use asyncdiff_common::codec::{self, CodecError};
use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::link::{HEADER_LIMIT_BYTES, LENGTH_BYTES, Misbehaviour};

/// The most bytes of a message: a tensor's header with its place.
const MESSAGE_LIMIT_BYTES: usize = HEADER_LIMIT_BYTES + 64;

/// A message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Message {
    /// This side ends the lane on purpose and says no more. Without it the end of the socket is the end of the process.
    Goodbye,
    /// A tensor lies in the sender's ring.
    Placed {
        /// Comes back when the receiver has let go of it.
        ticket: u32,
        /// Where its payload begins. How long it is, is in the header.
        offset: u64,
        /// The encoded header.
        header: Vec<u8>,
    },
    /// The receiver has let go of tensors.
    Released {
        /// Their numbers.
        tickets: Vec<u32>,
    },
}

/// What comes from the socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The socket has ended or failed.
    Ended,
    Message(Message),
}

impl Message {
    pub(super) fn encode_into(&self, bytes: &mut BytesMut) -> Result<(), CodecError> {
        let encoded = codec::encode(self)?;
        // Headers were bounded when they were encoded.
        bytes.put_u32_le(encoded.len() as u32);
        bytes.put_slice(&encoded);
        Ok(())
    }
}

/// Reads the next message.
pub(super) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> Result<Received, Misbehaviour> {
    let mut length = [0; LENGTH_BYTES];
    if socket.read_exact(&mut length).await.is_err() {
        return Ok(Received::Ended);
    }
    let length = Misbehaviour::checked_length("shared-memory message", length, MESSAGE_LIMIT_BYTES)?;
    let mut bytes = vec![0; length];
    if socket.read_exact(&mut bytes).await.is_err() {
        return Ok(Received::Ended);
    }
    let message = codec::decode(&bytes).map_err(|error| malformed(&error.to_string()))?;
    Ok(Received::Message(message))
}

/// A message that breaks the protocol.
pub(super) fn malformed(reason: &str) -> Misbehaviour {
    Misbehaviour::malformed("shared-memory message", reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_now(mut bytes: &[u8]) -> Result<Received, Misbehaviour> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(read(&mut bytes))
    }

    #[test]
    fn messages_have_golden_bytes() {
        let mut bytes = BytesMut::new();
        let placed = Message::Placed { ticket: 3, offset: 4096, header: vec![9, 8] };
        for message in [&placed, &Message::Released { tickets: vec![3, 1] }, &Message::Goodbye] {
            message.encode_into(&mut bytes).unwrap();
        }
        let golden = [8, 0, 0, 0, 1, 3, 251, 0, 16, 2, 9, 8, 4, 0, 0, 0, 2, 2, 3, 1, 1, 0, 0, 0, 0];
        assert_eq!(&bytes[..], golden, "a change of these bytes needs a new wire version");
        assert_eq!(read_now(&bytes), Ok(Received::Message(placed)));
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        assert!(matches!(read_now(&[255; 4]), Err(Misbehaviour::FrameTooLong { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error_or_the_end(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let framed = [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat();
            for bytes in [&bytes, &framed] {
                // It returns.
                drop(read_now(bytes));
            }
        }
    }
}
