//! Getting one list of parameters: from the coordinator, and from peers that it names.

use std::collections::HashMap;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{FailedPeer, ToCoordinator, ToPeer, WantedWeight, WeightEntry, WorkerFailure};
use asyncdiff_plan::JobId;
use asyncdiff_transport::WorkerName;
use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Collector;
use super::fetch::{Fetch, Next};
use crate::actors::PeerState;
use crate::intake::{AwaitedParameters, Digest, Notice, ParameterEvent};

/// A list on its way.
struct Transfer<'a> {
    collector: &'a Collector,
    job: JobId,
    entries: HashMap<Digest, &'a WeightEntry>,
    awaited: AwaitedParameters,
    fetch: Fetch,
    /// Each asks a peer and ends when that has failed.
    peers: JoinSet<(WorkerName, String)>,
}

/// What happens to a list.
enum Event {
    Parameter(ParameterEvent),
    PeerFailed(WorkerName, String),
    Overdue,
}

impl Collector {
    /// Gets parameters, each checked by its digest, whoever sent it. They are cached one after the other as they arrive: what is interrupted goes
    /// on from there.
    pub(super) async fn transfer(
        &self,
        job: JobId,
        batch: &[WeightEntry],
        arrived: &mut HashMap<Digest, Bytes>,
    ) -> Result<(), WorkerFailure> {
        let sized =
            batch.iter().map(|entry| (entry.digest, WantedWeight::from(entry).byte_count().unwrap_or(u64::MAX)));
        let mut transfer = Transfer {
            collector: self,
            job,
            entries: batch.iter().map(|entry| (entry.digest, entry)).collect(),
            awaited: self.intake.ask_parameters(batch),
            fetch: Fetch::new(sized, Instant::now()),
            peers: JoinSet::new(),
        };
        let digests = batch.iter().map(|entry| entry.digest).collect();
        transfer.ask_coordinator(digests, None);
        while !transfer.fetch.is_done() {
            let next = match transfer.event().await {
                Event::Parameter(ParameterEvent::Arrived(digest, bytes)) => match transfer.take(digest, bytes).await {
                    Ok(bytes) => {
                        arrived.insert(digest, bytes);
                        Next::Wait
                    }
                    Err(next) => next,
                },
                Event::Parameter(ParameterEvent::Notice(notice)) => transfer.note(notice),
                Event::PeerFailed(peer, reason) => {
                    tracing::debug!(%peer, reason, "parameters will not come from a worker");
                    transfer.fetch.peer_failed(&peer, Instant::now())
                }
                Event::Overdue => transfer.fetch.overdue(Instant::now()),
            };
            transfer.carry_out(next)?;
        }
        self.session.send(ToCoordinator::WeightsArrived { ticket: transfer.awaited.ticket() });
        Ok(())
    }
}

impl Transfer<'_> {
    async fn event(&mut self) -> Event {
        let deadline = self.fetch.deadline().unwrap_or_else(Instant::now);
        tokio::select! {
            event = self.awaited.event() => Event::Parameter(event),
            Some(ended) = self.peers.join_next() => match ended {
                Ok((peer, reason)) => Event::PeerFailed(peer, reason),
                // Tasks do not panic; if one did, the peer's silence is noticed.
                Err(_) => Event::Overdue,
            },
            () = tokio::time::sleep_until(deadline) => Event::Overdue,
        }
    }

    /// Checks what has arrived and caches it. What is wrong is awaited again.
    async fn take(&mut self, digest: Digest, bytes: Bytes) -> Result<Bytes, Next> {
        if *blake3::hash(&bytes).as_bytes() != digest {
            tracing::warn!("a parameter came with bytes that its digest does not stand for");
            if let Some(entry) = self.entries.get(&digest) {
                self.awaited.await_again(entry);
            }
            return Err(self.fetch.arrived_wrong(&digest, Instant::now()));
        }
        self.fetch.arrived(&digest, Instant::now());
        if let Some(cache) = &self.collector.local.cache {
            cache.keep(digest, bytes.clone()).await;
        }
        Ok(bytes)
    }

    fn note(&mut self, notice: Notice) -> Next {
        let now = Instant::now();
        match notice {
            Notice::NotHeld { peer, digests } => self.fetch.not_held(&peer, &digests, now),
            Notice::Redirected { peer, link, digests } => {
                let digests = self.fetch.redirected(&peer, &digests, now);
                let Some(link) = link else { return self.fetch.peer_failed(&peer, now) };
                self.awaited.let_in(&digests, Some(&peer));
                let wanted: Vec<WantedWeight> =
                    digests.iter().filter_map(|digest| Some((*self.entries.get(digest)?).into())).collect();
                if !wanted.is_empty() {
                    self.peers.spawn(ask_peer(peer, link, wanted));
                }
                Next::Wait
            }
        }
    }

    fn carry_out(&mut self, next: Next) -> Result<(), WorkerFailure> {
        match next {
            Next::Wait => Ok(()),
            Next::AskCoordinator { digests, instead_of } => {
                self.awaited.let_in(&digests, None);
                let failed = instead_of.map(|(name, fault)| FailedPeer { name: name.to_string(), fault });
                self.ask_coordinator(digests, failed);
                Ok(())
            }
            Next::Silent { after } => Err(WorkerFailure::TimedOut {
                what: "a parameter from the coordinator".to_owned(),
                seconds: after.as_secs(),
            }),
            Next::Wrong { digest } => {
                let name = self.entries.get(&digest).map(|entry| entry.name.clone()).unwrap_or_default();
                let reason = "its bytes are not those that its digest stands for".to_owned();
                Err(WorkerFailure::BadWeight { name, reason })
            }
        }
    }

    fn ask_coordinator(&self, digests: Vec<Digest>, instead_of: Option<FailedPeer>) {
        let ticket = self.awaited.ticket();
        let message = ToCoordinator::WantWeights { job: self.job, ticket, digests, instead_of };
        self.collector.session.send(message);
    }
}

/// Asks a peer as soon as there is a link to it. Ends when no parameters will come from there any more, with the reason.
async fn ask_peer(
    peer: WorkerName,
    link: watch::Receiver<PeerState>,
    wanted: Vec<WantedWeight>,
) -> (WorkerName, String) {
    let path = match PeerState::opened(link).await {
        Ok(path) => path,
        Err(reason) => return (peer, reason),
    };
    let asked = codec::encode(&ToPeer::WantWeights { wanted }).map_err(|error| error.to_string());
    let asked = asked.and_then(|frame| path.sender.try_send_control(frame.into()).map_err(|error| error.to_string()));
    let reason = match asked {
        Ok(()) => path.sender.closed().await.to_string(),
        Err(reason) => reason,
    };
    (peer, reason)
}
