//! What all sessions know together of who holds which parameters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use asyncdiff_common::wire::{Endpoint, FailedPeer, PeerFault};
use ractor::ActorId;

use super::holders::{Digest, Holders, Shares, Standing, WeightCounts};
use crate::actors::session::WorkerHandle;

/// One for all sessions, told by Membership and by them; nobody holds its lock for longer than a few look-ups for each parameter.
#[derive(Clone, Default)]
pub(crate) struct WeightDirectory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    holders: Holders,
    workers: HashMap<String, WorkerHandle>,
}

/// Parameters that a worker is to ask of another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Referral {
    pub(crate) peer: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) digests: Vec<Digest>,
}

impl WeightDirectory {
    /// Knows a worker from now on, of which nothing is known yet; an older session of its name is forgotten.
    pub(crate) fn add(&self, worker: WorkerHandle) {
        let mut state = self.state();
        state.holders.forget(worker.name());
        state.workers.insert(worker.name().to_owned(), worker);
    }

    /// Forgets a session that has ended, unless a newer one of its name has taken its place.
    pub(crate) fn remove(&self, name: &str, session: ActorId) {
        let mut state = self.state();
        if state.workers.get(name).is_some_and(|worker| worker.session_id() == session) {
            state.workers.remove(name);
            state.holders.forget(name);
        }
    }

    pub(crate) fn note_held(&self, worker: &str, digests: &[Digest]) {
        self.state().holders.note_held(worker, digests);
    }

    pub(crate) fn note_arrived(&self, worker: &str, ticket: u64) {
        self.state().holders.note_arrived(worker, ticket);
    }

    /// Where a worker gets parameters from: what the coordinator is to send, and whom else to ask.
    pub(crate) fn share(&self, asker: &str, ticket: u64, wanted: &[(Digest, u64)]) -> (Vec<Digest>, Vec<Referral>) {
        let mut state = self.state();
        let State { holders, workers } = &mut *state;
        let standing = |name: &str| {
            let worker = workers.get(name).filter(|worker| worker.is_connected() && !worker.is_leaving())?;
            Some(if worker.is_serving() { Standing::Busy } else { Standing::Idle })
        };
        let Shares { mut coordinator, peers } = holders.share(asker, ticket, wanted, standing);
        let mut referrals = Vec::with_capacity(peers.len());
        for (peer, digests) in peers {
            match workers.get(&peer) {
                Some(worker) => referrals.push(Referral { endpoint: worker.endpoint().clone(), peer, digests }),
                None => coordinator.extend(digests),
            }
        }
        (coordinator, referrals)
    }

    /// A worker did not get parameters of another: the coordinator sends them.
    pub(crate) fn note_failed(&self, asker: &str, ticket: u64, digests: &[Digest], failed: &FailedPeer) {
        let mut state = self.state();
        match failed.fault {
            PeerFault::NotHeld => state.holders.note_not_held(&failed.name, digests),
            PeerFault::Failed => state.holders.avoid(asker, &failed.name),
        }
        state.holders.take_over(asker, ticket, digests);
    }

    /// What a worker has got so far, and from whom.
    pub(crate) fn counts(&self, worker: &str) -> WeightCounts {
        self.state().holders.counts(worker)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was held may have lost what one worker holds, which costs a transfer from the coordinator.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
