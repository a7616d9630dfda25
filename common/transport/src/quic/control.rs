//! Control frames on the control connection's one stream: four bytes of length, then the frame.

use asyncdiff_common::codec::MESSAGE_LIMIT_BYTES;
use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream};

use crate::link::{CloseReason, Delivery, Incoming, LENGTH_BYTES, Misbehaviour, Pump};

/// Writes frames to the control stream.
pub(super) struct ToStream(pub(super) SendStream);

impl Pump<Bytes> for ToStream {
    async fn pass(&mut self, frame: Bytes) -> Delivery {
        // The sender bounded the frame by MESSAGE_LIMIT_BYTES, far below 4 GiB.
        let length = Bytes::copy_from_slice(&(frame.len() as u32).to_le_bytes());
        match self.0.write_all_chunks(&mut [length, frame]).await {
            Ok(()) => Delivery::Passed,
            // The connection is gone; whoever watches it knows why.
            Err(_) => Delivery::Stopped,
        }
    }
}

impl ToStream {
    /// Ends the stream and waits until the peer has all of it.
    pub(super) async fn finish(mut self) {
        // Both fail only if the stream or the connection is gone, and then there is nothing to wait for.
        if self.0.finish().is_ok() {
            let _ = self.0.stopped().await;
        }
    }
}

/// Reads frames until the stream or the connection ends.
pub(super) async fn read(mut stream: RecvStream, incoming: Incoming) {
    loop {
        match next_frame(&mut stream).await {
            Ok(Some(frame)) => incoming.deliver_control(frame).await,
            Ok(None) => return,
            Err(misbehaviour) => return incoming.core.finish(CloseReason::PeerMisbehaved(misbehaviour)),
        }
    }
}

/// The next frame; `None` at the end of the stream or the connection.
async fn next_frame(stream: &mut RecvStream) -> Result<Option<Bytes>, Misbehaviour> {
    let mut length = [0; LENGTH_BYTES];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0) | ReadExactError::ReadError(_)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(cut_short()),
    }
    let length = Misbehaviour::checked_length("control frame", length, MESSAGE_LIMIT_BYTES)?;
    let mut frame = vec![0; length];
    match stream.read_exact(&mut frame).await {
        Ok(()) => Ok(Some(frame.into())),
        Err(ReadExactError::ReadError(_)) => Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => Err(cut_short()),
    }
}

fn cut_short() -> Misbehaviour {
    Misbehaviour::malformed("control frame", "the stream ended within it")
}
