//! Pairs the control and the data connection of a link on the accepting side.
//!
//! Either may come first. Both must carry the same certificate's name and the same number.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::oneshot;

use super::protocol::LINK_NUMBER_BYTES;
use crate::PeerName;

/// Halves that may wait for their other half: as many as handshakes may wait. Each waits no longer than a handshake may
/// take.
const WAITING_LIMIT: usize = 64;

type Key = (PeerName, [u8; LINK_NUMBER_BYTES]);

/// One of a link's two connections, ready.
pub(super) enum Half {
    Control { connection: Connection, streams: (SendStream, RecvStream) },
    Data(Connection),
}

/// The halves that wait. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Pairing(Arc<Mutex<HashMap<Key, Waiting>>>);

struct Waiting {
    is_control: bool,
    other: oneshot::Sender<Half>,
}

/// What becomes of a half that arrives.
pub(super) enum Arrival {
    /// It came first: its other half will come here. Dropping this gives up.
    First { own: Half, other: oneshot::Receiver<Half>, place: Place },
    /// It came second and was handed to the first.
    HandedOver,
    /// Its like is already waiting, or too many wait.
    Refused(Half, &'static str),
}

/// A place among those that wait, given up when dropped.
pub(super) struct Place {
    pairing: Pairing,
    key: Key,
}

impl Pairing {
    pub(super) fn arrive(&self, key: Key, half: Half) -> Arrival {
        let is_control = matches!(half, Half::Control { .. });
        let mut waiting = self.waiting();
        let is_full = waiting.len() >= WAITING_LIMIT;
        match waiting.entry(key.clone()) {
            Entry::Occupied(entry) if entry.get().is_control == is_control => {
                Arrival::Refused(half, "a link of the same number is being made")
            }
            Entry::Occupied(entry) => match entry.remove().other.send(half) {
                Ok(()) => Arrival::HandedOver,
                Err(half) => Arrival::Refused(half, "the other connection gave up"),
            },
            Entry::Vacant(_) if is_full => Arrival::Refused(half, "too many links are being made"),
            Entry::Vacant(entry) => {
                let (sender, other) = oneshot::channel();
                entry.insert(Waiting { is_control, other: sender });
                Arrival::First { own: half, other, place: Place { pairing: self.clone(), key } }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Waiting>> {
        // No panic can happen while it is locked; were there one, the map would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Half {
    pub(super) fn connection(&self) -> &Connection {
        match self {
            Self::Control { connection, .. } | Self::Data(connection) => connection,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = self.pairing.waiting();
        // After a hand-over the key is free, and a newer half may have taken it: only a sender whose receiver is gone
        // is ours.
        if waiting.get(&self.key).is_some_and(|waiting| waiting.other.is_closed()) {
            waiting.remove(&self.key);
        }
    }
}
