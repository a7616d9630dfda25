//! What one end of a lane says on its socket. Whoever has something to say writes it, from any thread: no other thread has to wake for it. Only what
//! the socket has no room for is left to a task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use rustix::net::Shutdown;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

use super::message::Message;

/// Messages on their way to the peer. What waits is bounded by what may be in flight: an honest end owes one message for each tensor in either
/// direction, and a goodbye.
pub(super) struct Outbox {
    socket: OwnedWriteHalf,
    unsent: Mutex<Unsent>,
    /// Told when there is something for the task to do.
    has_work: Notify,
}

#[derive(Default)]
struct Unsent {
    bytes: BytesMut,
    /// Nothing is said any more: the goodbye was said, or the socket has failed, which the reader sees too.
    has_ended: bool,
}

/// The task that writes what the socket had no room for. When it ends or is dropped the socket ends, as with the process.
pub(crate) struct LaneWriter(Arc<Outbox>);

impl Outbox {
    pub(super) fn new(socket: OwnedWriteHalf) -> (Arc<Self>, LaneWriter) {
        let outbox = Arc::new(Self { socket, unsent: Mutex::default(), has_work: Notify::new() });
        (Arc::clone(&outbox), LaneWriter(outbox))
    }

    /// Says something, without waiting. Returns whether it will be heard, if the peer goes on reading.
    pub(super) fn say(&self, message: &Message) -> bool {
        let mut unsent = self.unsent();
        if unsent.has_ended {
            return false;
        }
        let is_first = unsent.bytes.is_empty();
        if let Err(error) = message.encode_into(&mut unsent.bytes) {
            tracing::error!(%error, "a message does not encode");
            return false;
        }
        if is_first {
            self.write(&mut unsent);
        }
        let is_last = *message == Message::Goodbye;
        unsent.has_ended |= is_last;
        if is_last || !unsent.bytes.is_empty() {
            self.has_work.notify_one();
        }
        true
    }

    /// Writes as much as the socket has room for.
    fn write(&self, unsent: &mut Unsent) {
        while !unsent.bytes.is_empty() {
            match self.socket.try_write(&unsent.bytes) {
                Ok(written) => unsent.bytes.advance(written),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    unsent.bytes.clear();
                    unsent.has_ended = true;
                    self.has_work.notify_one();
                }
            }
        }
    }

    fn unsent(&self) -> MutexGuard<'_, Unsent> {
        // A panic in between would be of `BytesMut`; what it holds is still bytes.
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneWriter {
    /// Writes until the goodbye is written or the socket fails.
    pub(crate) async fn run(self) {
        let Self(outbox) = &self;
        loop {
            outbox.has_work.notified().await;
            loop {
                {
                    let mut unsent = outbox.unsent();
                    outbox.write(&mut unsent);
                    match (unsent.bytes.is_empty(), unsent.has_ended) {
                        (true, true) => return,
                        (true, false) => break,
                        (false, _) => {}
                    }
                }
                if outbox.socket.writable().await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for LaneWriter {
    fn drop(&mut self) {
        // Others hold the socket too, such as tensors that are still in use. It may have ended already.
        let _ = rustix::net::shutdown(self.0.socket.as_ref(), Shutdown::Write);
    }
}
