//! The sender's ring: slots that are filled, sent, and given back by the receiver.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::RING_BYTES;
use super::memory::OwnMemory;
use super::slots::Slots;

/// Bytes that are copied before others of the thread have their turn: a tenth of a millisecond.
pub(super) const COPIED_AT_ONCE_BYTES: usize = 1 << 20;

/// A ring that this process fills.
pub(super) struct Ring {
    memory: OwnMemory,
    slots: Mutex<Slots>,
    /// Told when something has come back.
    returned: Notify,
}

/// Memory of a link, to be filled with a payload that is then sent without a copy.
///
/// Its contents are whatever was there before. Dropping it, or the last of the [`Bytes`] made of it, gives it back once the
/// peer has let go of what was sent from it.
#[must_use]
pub struct Loan {
    ring: Arc<Ring>,
    range: Range<usize>,
}

/// A payload on its way.
pub(crate) struct Sent {
    pub(super) ticket: u32,
    pub(super) offset: usize,
}

impl Ring {
    pub(super) fn new(memory: OwnMemory) -> Arc<Self> {
        Arc::new(Self { memory, slots: Mutex::default(), returned: Notify::new() })
    }

    /// A slot, if one is free now.
    pub(super) fn lend(self: &Arc<Self>, bytes: usize) -> Option<Loan> {
        self.lend_within(bytes, RING_BYTES)
    }

    fn lend_within(self: &Arc<Self>, bytes: usize, limit: usize) -> Option<Loan> {
        let begin = self.slots().take(bytes, limit)?;
        Some(Loan { ring: Arc::clone(self), range: begin..begin + bytes })
    }

    /// Counts a payload as sent, having copied it into a slot that ends within `limit`, unless it lies in one; waits for room. `None` if
    /// there never will be.
    pub(super) async fn send(self: &Arc<Self>, payload: &Bytes, limit: usize) -> Option<Sent> {
        if let Some(range) = self.place_of(payload) {
            return Some(self.send_slot(range).await);
        }
        if payload.len() > limit {
            return None;
        }
        let mut loan = self.when_returned(|| self.lend_within(payload.len(), limit)).await;
        copy_in_turns(payload, &mut loan).await;
        // The loan is given back here, while the tensor in flight holds the slot.
        Some(self.send_slot(loan.range.clone()).await)
    }

    /// The same, if there is room now and the payload lies in a slot or is copied in no time.
    pub(super) fn try_send(self: &Arc<Self>, payload: &Bytes, limit: usize) -> Option<Sent> {
        if let Some(range) = self.place_of(payload) {
            return self.try_send_slot(range);
        }
        if payload.len() > COPIED_AT_ONCE_BYTES {
            return None;
        }
        let mut loan = self.lend_within(payload.len(), limit)?;
        loan.copy_from_slice(payload);
        // As above.
        self.try_send_slot(loan.range.clone())
    }

    /// The receiver has let go of payloads. Returns whether it had one of each number.
    pub(super) fn take_back(&self, tickets: &[u32]) -> bool {
        let were_out = {
            let mut slots = self.slots();
            tickets.iter().all(|&ticket| slots.take_back(ticket))
        };
        self.returned.notify_waiters();
        were_out
    }

    async fn send_slot(&self, range: Range<usize>) -> Sent {
        self.when_returned(|| self.try_send_slot(range.clone())).await
    }

    fn try_send_slot(&self, range: Range<usize>) -> Option<Sent> {
        let offset = range.start;
        Some(Sent { ticket: self.slots().send(range)?, offset })
    }

    /// Where in the ring a payload lies, if it does. One without bytes points anywhere.
    fn place_of(&self, payload: &Bytes) -> Option<Range<usize>> {
        let offset = self.memory.offset_of(payload).filter(|_| !payload.is_empty())?;
        Some(offset..offset + payload.len())
    }

    /// Tries now and whenever something has come back.
    async fn when_returned<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            // From here on nothing that comes back is missed.
            returned.as_mut().enable();
            if let Some(found) = attempt() {
                return found;
            }
            returned.await;
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every change of the slots is complete before anything that could panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies bytes of one length, letting others have their turn in between.
pub(super) async fn copy_in_turns(from: &[u8], to: &mut [u8]) {
    let chunks = from.chunks(COPIED_AT_ONCE_BYTES).zip(to.chunks_mut(COPIED_AT_ONCE_BYTES));
    for (index, (from, to)) in chunks.enumerate() {
        if index > 0 {
            tokio::task::yield_now().await;
        }
        to.copy_from_slice(from);
    }
}

impl Loan {
    /// The payload as it is sent. On the link that lent it, sending copies nothing.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the slot is this loan's, and a mutable slice of it borrows the loan.
        unsafe { self.ring.memory.bytes(self.range.clone()) }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the slot is this loan's alone: slots do not overlap, none is taken again before it is free, and tensors are
        // sent from it only when it is bytes, which are never written.
        unsafe { self.ring.memory.bytes_mut(self.range.clone()) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.ring.slots().release(self.range.start) {
            self.ring.returned.notify_waiters();
        }
    }
}
