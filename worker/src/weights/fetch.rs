//! What is missing of a list of parameters, who is to send it, and what to do if nothing comes. Pure: time is handed in.
//!
//! ```text
//!   asked of the coordinator ── redirected ──► asked of a peer ── lost, silent, lies, lacks it ──► asked of the coordinator, for good
//! ```

use std::collections::HashMap;
use std::time::Duration;

use asyncdiff_common::wire::PeerFault;
use asyncdiff_transport::WorkerName;
use tokio::time::Instant;

use crate::intake::Digest;

/// How long the coordinator may say nothing, beside the time that what it owes takes.
const COORDINATOR_SILENCE: Duration = Duration::from_secs(30);

/// The same of a peer, its dial included. There is somebody else to ask.
const PEER_SILENCE: Duration = Duration::from_secs(6);

/// A source that sends less than this in a second is taken for silent. Of a parameter nothing is seen before all of it is there.
const SLOWEST_BYTES_PER_SECOND: f64 = (4 << 20) as f64;

/// How often the coordinator may send wrong bytes in place of a parameter: what a peer sent may still have been on its way the first time.
const WRONG_FROM_COORDINATOR: u32 = 2;

/// Who is to send a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Coordinator,
    Peer(WorkerName),
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing but wait.
    Wait,
    /// The coordinator is to be asked for these.
    AskCoordinator { digests: Vec<Digest>, instead_of: Option<(WorkerName, PeerFault)> },
    /// The coordinator sent bytes that the digest does not stand for, more than once.
    Wrong { digest: Digest },
    /// The coordinator has been silent for so long.
    Silent { after: Duration },
}

/// A list of parameters on their way.
#[derive(Debug)]
pub(super) struct Fetch {
    missing: HashMap<Digest, Missing>,
    /// When each source was asked or sent something last.
    heard: HashMap<Source, Instant>,
}

#[derive(Debug)]
struct Missing {
    bytes: u64,
    source: Source,
    /// Whether a peer has failed to send it: then no other is asked.
    is_for_coordinator: bool,
    wrong: u32,
}

impl Fetch {
    /// The coordinator was asked for these.
    pub(super) fn new(wanted: impl Iterator<Item = (Digest, u64)>, now: Instant) -> Self {
        let missing = |bytes| Missing { bytes, source: Source::Coordinator, is_for_coordinator: false, wrong: 0 };
        let missing = wanted.map(|(digest, bytes)| (digest, missing(bytes))).collect();
        Self { missing, heard: HashMap::from([(Source::Coordinator, now)]) }
    }

    pub(super) fn is_done(&self) -> bool {
        self.missing.is_empty()
    }

    /// The coordinator says that a peer has parameters. Returns those that it is to be asked for.
    pub(super) fn redirected(&mut self, peer: &WorkerName, digests: &[Digest], now: Instant) -> Vec<Digest> {
        self.heard.insert(Source::Coordinator, now);
        let mut asked = Vec::new();
        for digest in digests {
            let Some(missing) = self.missing.get_mut(digest) else { continue };
            if missing.source == Source::Coordinator && !missing.is_for_coordinator {
                missing.source = Source::Peer(peer.clone());
                asked.push(*digest);
            }
        }
        if !asked.is_empty() {
            self.heard.insert(Source::Peer(peer.clone()), now);
        }
        asked
    }

    /// A parameter has arrived, with the bytes that its digest stands for.
    pub(super) fn arrived(&mut self, digest: &Digest, now: Instant) {
        if let Some(missing) = self.missing.remove(digest) {
            self.heard.insert(missing.source, now);
        }
    }

    /// A parameter has arrived with other bytes.
    pub(super) fn arrived_wrong(&mut self, digest: &Digest, now: Instant) -> Next {
        let Some(missing) = self.missing.get_mut(digest) else { return Next::Wait };
        match missing.source.clone() {
            Source::Peer(peer) => self.peer_failed(&peer, now),
            Source::Coordinator => {
                missing.wrong += 1;
                if missing.wrong >= WRONG_FROM_COORDINATOR {
                    return Next::Wrong { digest: *digest };
                }
                Next::AskCoordinator { digests: vec![*digest], instead_of: None }
            }
        }
    }

    /// A peer lacks parameters.
    pub(super) fn not_held(&mut self, peer: &WorkerName, digests: &[Digest], now: Instant) -> Next {
        let of_peer = Source::Peer(peer.clone());
        self.heard.insert(of_peer.clone(), now);
        let is_its = |digest: &&Digest| self.missing.get(*digest).is_some_and(|missing| missing.source == of_peer);
        let digests: Vec<Digest> = digests.iter().filter(is_its).copied().collect();
        self.ask_coordinator(digests, peer, PeerFault::NotHeld, now)
    }

    /// A peer cannot be reached, is lost, silent or lies: the coordinator sends all that is missing of it.
    pub(super) fn peer_failed(&mut self, peer: &WorkerName, now: Instant) -> Next {
        let of_peer = Source::Peer(peer.clone());
        let its = self.missing.iter().filter(|(_, missing)| missing.source == of_peer);
        let digests: Vec<Digest> = its.map(|(digest, _)| *digest).collect();
        self.ask_coordinator(digests, peer, PeerFault::Failed, now)
    }

    /// When somebody counts as silent. Everybody who owes something has been heard of.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadlines().map(|(_, deadline)| deadline).min()
    }

    /// What to do about those who are silent.
    pub(super) fn overdue(&mut self, now: Instant) -> Next {
        let overdue = self.deadlines().find(|(_, deadline)| *deadline <= now).map(|(source, _)| source.clone());
        match overdue {
            None => Next::Wait,
            Some(Source::Peer(peer)) => self.peer_failed(&peer, now),
            Some(Source::Coordinator) => {
                let heard = self.heard.get(&Source::Coordinator).copied().unwrap_or(now);
                Next::Silent { after: now.duration_since(heard) }
            }
        }
    }

    fn ask_coordinator(&mut self, digests: Vec<Digest>, peer: &WorkerName, fault: PeerFault, now: Instant) -> Next {
        if digests.is_empty() {
            return Next::Wait;
        }
        for digest in &digests {
            if let Some(missing) = self.missing.get_mut(digest) {
                (missing.source, missing.is_for_coordinator) = (Source::Coordinator, true);
            }
        }
        self.heard.insert(Source::Coordinator, now);
        Next::AskCoordinator { digests, instead_of: Some((peer.clone(), fault)) }
    }

    /// When each source that owes something counts as silent.
    fn deadlines(&self) -> impl Iterator<Item = (&Source, Instant)> {
        let mut owed: HashMap<&Source, u64> = HashMap::new();
        for missing in self.missing.values() {
            let bytes = owed.entry(&missing.source).or_default();
            *bytes = bytes.saturating_add(missing.bytes);
        }
        owed.into_iter().filter_map(|(source, bytes)| {
            let silence = match source {
                Source::Coordinator => COORDINATOR_SILENCE,
                Source::Peer(_) => PEER_SILENCE,
            };
            let takes = Duration::try_from_secs_f64(bytes as f64 / SLOWEST_BYTES_PER_SECOND).unwrap_or_default();
            // Bytes that take longer than the clock goes are refused before they are asked for.
            Some((source, self.heard.get(source)?.checked_add(silence)?.checked_add(takes)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(number: usize) -> WorkerName {
        WorkerName::new(&format!("peer-{number}")).unwrap()
    }

    fn digest(number: usize) -> Digest {
        [number as u8; 32]
    }

    fn fetch(count: usize, now: Instant) -> Fetch {
        Fetch::new((0..count).map(|number| (digest(number), 1000)), now)
    }

    fn asked(next: Next) -> Vec<Digest> {
        match next {
            Next::AskCoordinator { digests, .. } => digests,
            Next::Wait => Vec::new(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_peer_lacks_is_asked_of_the_coordinator_and_of_no_other_peer() {
        let now = Instant::now();
        let mut fetch = fetch(2, now);
        assert_eq!(fetch.redirected(&name(0), &[digest(0), digest(1), digest(9)], now), [digest(0), digest(1)]);
        let next = fetch.not_held(&name(0), &[digest(1), digest(9)], now);
        let instead_of = Some((name(0), PeerFault::NotHeld));
        assert_eq!(next, Next::AskCoordinator { digests: vec![digest(1)], instead_of });
        assert!(fetch.redirected(&name(1), &[digest(0), digest(1)], now).is_empty());
    }

    #[test]
    fn a_peer_that_lies_is_trusted_with_nothing_else() {
        let now = Instant::now();
        let mut fetch = fetch(3, now);
        fetch.redirected(&name(0), &[digest(0), digest(1)], now);
        let mut digests = asked(fetch.arrived_wrong(&digest(0), now));
        digests.sort_unstable();
        assert_eq!(digests, [digest(0), digest(1)]);
        // One lie may still have been on its way.
        assert_eq!(asked(fetch.arrived_wrong(&digest(0), now)), [digest(0)]);
        assert_eq!(fetch.arrived_wrong(&digest(0), now), Next::Wrong { digest: digest(0) });
    }

    #[test]
    fn a_silent_peer_is_given_up_long_before_the_coordinator() {
        let now = Instant::now();
        let mut fetch = fetch(2, now);
        fetch.redirected(&name(0), &[digest(0)], now);
        let deadline = fetch.deadline().unwrap();
        assert!(deadline - now < Duration::from_secs(7));
        assert_eq!(fetch.overdue(now), Next::Wait);
        assert_eq!(asked(fetch.overdue(deadline)), [digest(0)]);
        let deadline = fetch.deadline().unwrap();
        assert!(matches!(fetch.overdue(deadline), Next::Silent { after } if after >= COORDINATOR_SILENCE));
    }

    #[test]
    fn a_large_parameter_may_take_its_time() {
        let now = Instant::now();
        let fetch = Fetch::new([(digest(0), 1 << 30)].into_iter(), now);
        assert!(fetch.deadline().unwrap() - now > Duration::from_secs(280));
    }

    proptest! {
        /// Whatever peers do, a list ends: all of it arrives if the coordinator sends what it is asked for; nothing is asked of it twice without a
        /// lie of its own; and somebody who owes something always has a deadline.
        #[test]
        fn a_list_ends_whatever_peers_do(events in prop::collection::vec((0u8..6, 0usize..4, 0usize..12), 0..80)) {
            let mut now = Instant::now();
            let mut fetch = fetch(12, now);
            let mut asked_again: HashMap<Digest, u32> = HashMap::new();
            let mut note = |next: Next| {
                for digest in asked(next) {
                    *asked_again.entry(digest).or_default() += 1;
                }
            };
            for (event, peer, number) in events {
                now += Duration::from_millis(700);
                let digests: Vec<Digest> = (number..12).step_by(3).map(digest).collect();
                let is_of_peer = |fetch: &Fetch| fetch.missing.get(&digest(number)).is_some_and(|missing| missing.source != Source::Coordinator);
                match event {
                    0 | 1 => {
                        fetch.redirected(&name(peer), &digests, now);
                    }
                    2 => fetch.arrived(&digest(number), now),
                    3 if is_of_peer(&fetch) => note(fetch.arrived_wrong(&digest(number), now)),
                    4 => note(fetch.not_held(&name(peer), &digests, now)),
                    5 => note(fetch.peer_failed(&name(peer), now)),
                    _ => {}
                }
                prop_assert_eq!(fetch.is_done(), fetch.deadline().is_none());
                if fetch.deadline().is_some_and(|deadline| deadline <= now) {
                    match fetch.overdue(now) {
                        Next::Silent { .. } => return Ok(()),
                        next => note(next),
                    }
                }
            }
            while let Some(deadline) = fetch.deadline() {
                match fetch.overdue(deadline) {
                    Next::Silent { .. } => break,
                    next => note(next),
                }
            }
            prop_assert!(fetch.missing.values().all(|missing| missing.source == Source::Coordinator));
            prop_assert!(asked_again.values().all(|&times| times == 1), "{:?}", asked_again);
        }
    }
}
