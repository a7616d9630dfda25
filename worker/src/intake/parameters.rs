//! Parameters that were asked for, by the digest of their stored bytes, and of whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use asyncdiff_common::wire::{DType, TensorHeader, WeightEntry, byte_count};
use asyncdiff_transport::link::Refusal;
use asyncdiff_transport::{PeerName, WorkerName};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::Intake;
use super::recent::Recent;
use crate::actors::PeerState;

/// BLAKE3 of a parameter's stored bytes.
pub(crate) type Digest = [u8; 32];

/// Digests that are remembered after they came or were given up, so that a copy still on its way is late and not a misdeed. Several
/// times the parameters of the largest denoiser.
const RECENT_DIGESTS: usize = 16 * 1024;

/// Notices that may wait for one request: a few of each peer that it asks. One that is lost costs the time until the peer counts as silent.
const NOTICES: usize = 64;

#[derive(Debug)]
pub(super) struct Parameters {
    next_ticket: u64,
    awaited: HashMap<Digest, Vec<Waiter>>,
    notices: HashMap<u64, mpsc::Sender<Notice>>,
    recent: Recent<Digest>,
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    shape: Vec<u32>,
    dtype: DType,
    /// The peer that was asked; the coordinator may always send.
    peer: Option<WorkerName>,
    arrived: mpsc::Sender<(Digest, Bytes)>,
}

/// News about parameters that are on their way to a request.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A peer lacks them.
    NotHeld { peer: WorkerName, digests: Vec<Digest> },
    /// The coordinator says that a peer has them. There is no link if none can be made.
    Redirected { peer: WorkerName, link: Option<watch::Receiver<PeerState>>, digests: Vec<Digest> },
}

/// What happens to parameters that a request awaits.
pub(crate) enum ParameterEvent {
    Arrived(Digest, Bytes),
    Notice(Notice),
}

/// Parameters on their way to one request; they are not expected any more when this is dropped.
#[must_use]
pub(crate) struct AwaitedParameters {
    intake: Arc<Intake>,
    ticket: u64,
    arrived: mpsc::Receiver<(Digest, Bytes)>,
    notices: mpsc::Receiver<Notice>,
    /// For parameters that are awaited once more.
    sender: mpsc::Sender<(Digest, Bytes)>,
}

/// A request's end of its channels.
pub(super) struct Asked {
    ticket: u64,
    arrived: mpsc::Receiver<(Digest, Bytes)>,
    notices: mpsc::Receiver<Notice>,
    sender: mpsc::Sender<(Digest, Bytes)>,
}

impl Default for Parameters {
    fn default() -> Self {
        let (awaited, notices) = (HashMap::new(), HashMap::new());
        Self { next_ticket: 0, awaited, notices, recent: Recent::new(RECENT_DIGESTS) }
    }
}

impl Parameters {
    pub(super) fn ask(&mut self, entries: &[WeightEntry]) -> Asked {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        // Each entry takes at most one place, so that delivering never waits: it is awaited again only when it was taken.
        let (sender, arrived) = mpsc::channel(entries.len().max(1));
        let (notify, notices) = mpsc::channel(NOTICES);
        self.notices.insert(ticket, notify);
        for entry in entries {
            self.wait(ticket, entry, sender.clone());
        }
        Asked { ticket, arrived, notices, sender }
    }

    fn wait(&mut self, ticket: u64, entry: &WeightEntry, arrived: mpsc::Sender<(Digest, Bytes)>) {
        let (shape, dtype) = (entry.shape.clone(), entry.dtype);
        self.awaited.entry(entry.digest).or_default().push(Waiter { ticket, shape, dtype, peer: None, arrived });
    }

    /// Lets parameters of a request in from a peer too, or from the coordinator alone.
    fn let_in(&mut self, ticket: u64, digests: &[Digest], peer: Option<&WorkerName>) {
        for digest in digests {
            let waiters = self.awaited.get_mut(digest).into_iter().flatten();
            for waiter in waiters.filter(|waiter| waiter.ticket == ticket) {
                waiter.peer = peer.cloned();
            }
        }
    }

    /// Tells a request, if it is still there and listens.
    pub(super) fn notify(&self, ticket: u64, notice: Notice) {
        if let Some(notices) = self.notices.get(&ticket) {
            drop(notices.try_send(notice));
        }
    }

    /// Tells those who asked a peer for parameters that it lacks them.
    pub(super) fn not_held(&self, peer: &WorkerName, digests: &[Digest]) {
        let mut by_ticket: HashMap<u64, HashSet<Digest>> = HashMap::new();
        for digest in digests {
            let waiters = self.awaited.get(digest).into_iter().flatten();
            for waiter in waiters.filter(|waiter| waiter.peer.as_ref() == Some(peer)) {
                by_ticket.entry(waiter.ticket).or_default().insert(*digest);
            }
        }
        for (ticket, digests) in by_ticket {
            self.notify(ticket, Notice::NotHeld { peer: peer.clone(), digests: digests.into_iter().collect() });
        }
    }

    /// Equal bytes have one digest whatever their axes, so only their number is compared.
    pub(super) fn admit(&self, from: &PeerName, digest: &Digest, header: &TensorHeader) -> Result<(), Refusal> {
        let waiters = self.awaited.get(digest).map(Vec::as_slice).unwrap_or_default();
        let may_send = |waiter: &&Waiter| match from {
            PeerName::Coordinator => true,
            PeerName::Worker(name) => waiter.peer.as_ref() == Some(name),
        };
        let Some(waiter) = waiters.iter().find(may_send) else {
            // A peer that was given up may have sent it all the same.
            let is_late = !waiters.is_empty() || self.recent.contains(digest);
            return Err(if is_late { Refusal::EndedJob { job: header.job } } else { Refusal::Unexpected });
        };
        if header.dtype != waiter.dtype {
            return Err(Refusal::WrongDType { expected: waiter.dtype, found: header.dtype });
        }
        if header.delta.is_some() {
            return Err(Refusal::WrongDelta { expected: None, found: header.delta });
        }
        if byte_count(&header.shape, header.dtype) != byte_count(&waiter.shape, waiter.dtype) {
            return Err(Refusal::WrongShape { expected: waiter.shape.clone(), found: header.shape.clone() });
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, digest: &Digest, payload: &Bytes) {
        for waiter in self.awaited.remove(digest).into_iter().flatten() {
            // Fails only if the request was dropped meanwhile.
            drop(waiter.arrived.try_send((*digest, payload.clone())));
        }
        self.recent.add(*digest);
    }

    fn give_up(&mut self, ticket: u64) {
        self.notices.remove(&ticket);
        let recent = &mut self.recent;
        self.awaited.retain(|digest, waiters| {
            let before = waiters.len();
            waiters.retain(|waiter| waiter.ticket != ticket);
            if waiters.len() < before {
                recent.add(*digest);
            }
            !waiters.is_empty()
        });
    }
}

impl AwaitedParameters {
    pub(super) fn new(intake: Arc<Intake>, asked: Asked) -> Self {
        let Asked { ticket, arrived, notices, sender } = asked;
        Self { intake, ticket, arrived, notices, sender }
    }

    /// By which the coordinator knows the request.
    pub(crate) fn ticket(&self) -> u64 {
        self.ticket
    }

    /// The next thing that happens.
    pub(crate) async fn event(&mut self) -> ParameterEvent {
        // Both have a sender for as long as this is there.
        tokio::select! {
            Some((digest, bytes)) = self.arrived.recv() => ParameterEvent::Arrived(digest, bytes),
            Some(notice) = self.notices.recv() => ParameterEvent::Notice(notice),
            else => std::future::pending().await,
        }
    }

    /// Lets parameters in from a peer too, or from the coordinator alone.
    pub(crate) fn let_in(&self, digests: &[Digest], peer: Option<&WorkerName>) {
        self.intake.state().parameters.let_in(self.ticket, digests, peer);
    }

    /// Awaits a parameter that came with wrong bytes once more.
    pub(crate) fn await_again(&self, entry: &WeightEntry) {
        self.intake.state().parameters.wait(self.ticket, entry, self.sender.clone());
    }
}

impl Drop for AwaitedParameters {
    fn drop(&mut self) {
        self.intake.state().parameters.give_up(self.ticket);
    }
}
