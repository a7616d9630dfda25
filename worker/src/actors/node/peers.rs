//! Which links to and from other workers there are.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asyncdiff_common::wire::{Endpoint, WorkerFailure};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::WorkerName;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use super::NodeState;
use super::jobs::Direction;
use crate::actors::peer_link::{PeerLink, PeerLinkArguments, PeerLinkMessage};
use crate::device::Outlet;
use crate::failure::without_hint;
use crate::intake::{Digest, Notice};
use crate::probing::PeerPath;

/// The links, by the other worker's name. Numbers tell an old link's end from a new link's.
#[derive(Default)]
pub(super) struct Peers {
    numbers: Arc<AtomicU64>,
    outgoing: HashMap<WorkerName, Outgoing>,
    incoming: HashMap<WorkerName, u64>,
}

struct Outgoing {
    number: u64,
    endpoint: Endpoint,
    actor: ActorRef<PeerLinkMessage>,
    state: watch::Sender<PeerState>,
}

/// What has become of a link to a peer.
#[derive(Debug)]
pub(crate) enum PeerState {
    Dialling,
    Ended { reason: String },
    Open(PeerPath),
}

impl PeerState {
    /// Waits until a link is open.
    pub(crate) async fn opened(mut link: watch::Receiver<Self>) -> Result<PeerPath, String> {
        match link.wait_for(|state| !matches!(state, Self::Dialling)).await.as_deref() {
            Ok(Self::Open(path)) => Ok(path.clone()),
            Ok(Self::Ended { reason }) => Err(reason.clone()),
            Ok(Self::Dialling) | Err(_) => Err("another link has taken its place".to_owned()),
        }
    }
}

impl Peers {
    pub(super) fn numbers(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.numbers)
    }

    /// The newest link of a peer counts.
    pub(super) fn accepted(&mut self, peer: WorkerName, link: u64) {
        self.incoming.insert(peer, link);
    }

    /// The way to a peer, if its link is open.
    pub(super) fn outlet(&self, peer: &WorkerName) -> Option<Outlet> {
        match &*self.outgoing.get(peer)?.state.borrow() {
            PeerState::Open(path) => Some(Outlet { link: path.sender.clone(), nccl: path.nccl.clone() }),
            PeerState::Dialling | PeerState::Ended { .. } => None,
        }
    }

    /// What becomes of the link to a peer, if there is one or is to be one.
    pub(super) fn watch(&self, peer: &WorkerName) -> Option<watch::Receiver<PeerState>> {
        Some(self.outgoing.get(peer)?.state.subscribe())
    }

    /// The peer and link that an actor keeps.
    pub(super) fn of_actor(&self, actor: ActorId) -> Option<(WorkerName, u64)> {
        let found = self.outgoing.iter().find(|(_, outgoing)| outgoing.actor.get_id() == actor);
        found.map(|(peer, outgoing)| (peer.clone(), outgoing.number))
    }

    fn is_usable(&self, peer: &WorkerName, endpoint: &Endpoint) -> bool {
        let is_open = |outgoing: &Outgoing| match &*outgoing.state.borrow() {
            PeerState::Dialling => true,
            PeerState::Ended { .. } => false,
            PeerState::Open(path) => path.sender.close_reason().is_none(),
        };
        self.outgoing.get(peer).is_some_and(|outgoing| outgoing.endpoint == *endpoint && is_open(outgoing))
    }

    /// Forgets a link that has ended. `None` if a newer one has taken its place.
    fn forget(&mut self, peer: &WorkerName, link: u64, reason: &str) -> Option<Direction> {
        if self.outgoing.get(peer).is_some_and(|outgoing| outgoing.number == link) {
            if let Some(outgoing) = self.outgoing.remove(peer) {
                outgoing.state.send_replace(PeerState::Ended { reason: reason.to_owned() });
            }
            return Some(Direction::Sends);
        }
        if self.incoming.get(peer) == Some(&link) {
            self.incoming.remove(peer);
            return Some(Direction::Receives);
        }
        None
    }
}

impl NodeState {
    /// Sees to it that there is a link to a peer, or that one is being dialled.
    pub(super) async fn ensure_peer(
        &mut self,
        peer: &WorkerName,
        endpoint: &Endpoint,
    ) -> Result<(), ActorProcessingErr> {
        if self.peers.is_usable(peer, endpoint) {
            return Ok(());
        }
        let number = self.peers.numbers.fetch_add(1, Ordering::Relaxed);
        let arguments = PeerLinkArguments {
            peer: peer.clone(),
            endpoint: endpoint.clone(),
            number,
            network: Arc::clone(&self.network),
            intake: Arc::clone(&self.intake),
            device: self.device.clone(),
            node: self.myself.clone(),
        };
        let (actor, _) = PeerLink::spawn_linked(None, PeerLink, arguments, self.myself.get_cell()).await?;
        let outgoing =
            Outgoing { number, endpoint: endpoint.clone(), actor, state: watch::Sender::new(PeerState::Dialling) };
        if let Some(old) = self.peers.outgoing.insert(peer.clone(), outgoing) {
            old.actor.stop(None);
        }
        Ok(())
    }

    /// Has a request ask a peer for parameters.
    pub(super) async fn redirect(&mut self, ticket: u64, peer: &str, endpoint: &Endpoint, digests: Vec<Digest>) {
        let Ok(peer) = WorkerName::new(peer) else {
            // Names come from certificates: this is a coordinator of another kind, and what it does not send is missed.
            return tracing::warn!(peer, "the coordinator names a worker that cannot be");
        };
        let link = match self.ensure_peer(&peer, endpoint).await {
            Ok(()) => self.peers.watch(&peer),
            Err(error) => {
                tracing::error!(%error, "an actor cannot be started");
                None
            }
        };
        self.intake.notify(ticket, Notice::Redirected { peer, link, digests });
    }

    pub(super) fn handle_peer_connected(&mut self, peer: &WorkerName, link: u64, path: PeerPath) {
        let Some(outgoing) = self.peers.outgoing.get(peer).filter(|outgoing| outgoing.number == link) else {
            return;
        };
        outgoing.state.send_replace(PeerState::Open(path));
        let waiting: Vec<JobId> = self.jobs.keys().copied().collect();
        for job in waiting {
            self.start_if_ready(job);
        }
    }

    /// A link's end is the end of the jobs that need it.
    pub(super) fn handle_peer_lost(&mut self, peer: &WorkerName, link: u64, reason: &str) {
        let Some(direction) = self.peers.forget(peer, link, reason) else { return };
        let concerned = self.jobs.iter().filter(|(_, job)| job.needs(peer, direction));
        let concerned: BTreeSet<(JobId, Epoch)> = concerned.map(|(id, job)| (*id, job.epoch)).collect();
        tracing::info!(%peer, reason, jobs = concerned.len(), "a link to another worker has ended");
        for (job, epoch) in concerned {
            let failure = WorkerFailure::PeerFailed { peer: peer.to_string(), reason: without_hint(reason) };
            self.fail_job(job, epoch, failure);
        }
    }
}
