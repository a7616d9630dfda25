//! Who holds which parameters, and who is to send them to whom. Pure.
//!
//! A parameter comes from the source that has the least to send, each byte of a worker that serves a job counted twice: a worker that holds
//! it and may serve, or the coordinator, which holds them all and comes last among equals. What a source was asked for counts until the
//! asker says that all of it has arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use asyncdiff_common::wire::HELD_WEIGHTS_LIMIT;
use serde::{Deserialize, Serialize};

/// BLAKE3 of a parameter's stored bytes.
pub(crate) type Digest = [u8; 32];

/// Workers that one list is shared among at most: each is a link that may have to be dialled first.
const PEERS_AT_A_TIME: usize = 4;

/// Lists of one worker that are remembered as under way: it has a few at a time, for a few parts of a few jobs.
const TICKETS_LIMIT: usize = 32;

/// What a byte weighs at a worker that serves a job.
const BUSY_WEIGHT: u64 = 2;

/// What a worker that holds parameters does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It serves a job.
    Busy,
    /// Nothing.
    Idle,
}

/// Where the parameters of a list come from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) coordinator: Vec<Digest>,
    pub(super) peers: BTreeMap<String, Vec<Digest>>,
}

/// Bytes of parameters that a worker has got in a session, by who sent them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightCounts {
    /// By the coordinator.
    pub coordinator_bytes: u64,
    /// By other workers.
    pub peer_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Holders {
    by_digest: HashMap<Digest, BTreeSet<String>>,
    workers: HashMap<String, Worker>,
}

#[derive(Debug, Default)]
struct Worker {
    /// What it holds, as it was told.
    held: VecDeque<Digest>,
    /// Those who did not send it what they were to.
    avoided: HashSet<String>,
    /// What was asked for and has not arrived, by ticket.
    asked: BTreeMap<u64, Vec<Asked>>,
    counts: WeightCounts,
}

#[derive(Debug)]
struct Asked {
    digest: Digest,
    bytes: u64,
    /// A worker, or the coordinator.
    of: Option<String>,
}

impl Holders {
    /// A worker holds parameters. Beyond the limit, those that it told first are forgotten.
    pub(super) fn note_held(&mut self, worker: &str, digests: &[Digest]) {
        let entry = self.workers.entry(worker.to_owned()).or_default();
        for digest in digests {
            if self.by_digest.entry(*digest).or_default().insert(worker.to_owned()) {
                entry.held.push_back(*digest);
            }
            if entry.held.len() > HELD_WEIGHTS_LIMIT
                && let Some(oldest) = entry.held.pop_front()
            {
                remove_holder(&mut self.by_digest, &oldest, worker);
            }
        }
    }

    /// A worker does not hold parameters any more.
    pub(super) fn note_not_held(&mut self, worker: &str, digests: &[Digest]) {
        let Some(entry) = self.workers.get_mut(worker) else { return };
        let gone: HashSet<&Digest> = digests.iter().collect();
        entry.held.retain(|digest| !gone.contains(digest));
        for digest in digests {
            remove_holder(&mut self.by_digest, digest, worker);
        }
    }

    /// Forgets a worker, what it holds and what it asked for.
    pub(super) fn forget(&mut self, worker: &str) {
        let Some(entry) = self.workers.remove(worker) else { return };
        for digest in entry.held {
            remove_holder(&mut self.by_digest, &digest, worker);
        }
        for other in self.workers.values_mut() {
            other.avoided.remove(worker);
        }
    }

    /// A worker does not ask another any more, for as long as both stay.
    pub(super) fn avoid(&mut self, asker: &str, peer: &str) {
        // Names come from the asker: only those that are there take memory.
        if self.workers.contains_key(peer) {
            self.workers.entry(asker.to_owned()).or_default().avoided.insert(peer.to_owned());
        }
    }

    /// Decides who sends the parameters of a list, and counts on it.
    pub(super) fn share(
        &mut self,
        asker: &str,
        ticket: u64,
        wanted: &[(Digest, u64)],
        standing: impl Fn(&str) -> Option<Standing>,
    ) -> Shares {
        let mut loads = self.loads();
        let (mut shares, mut asked) = (Shares::default(), Vec::with_capacity(wanted.len()));
        let avoided = self.workers.get(asker).map(|entry| entry.avoided.clone()).unwrap_or_default();
        for &(digest, bytes) in wanted {
            let holders = self.by_digest.get(&digest).into_iter().flatten();
            let is_full = shares.peers.len() >= PEERS_AT_A_TIME;
            let may_be_asked = |name: &&String| {
                name.as_str() != asker && !avoided.contains(*name) && (!is_full || shares.peers.contains_key(*name))
            };
            let peers = holders.filter(may_be_asked).filter_map(|name| Some((Some(name), standing(name)?)));
            let sources = peers.chain([(None, Standing::Idle)]);
            let cost = |(name, standing): &(Option<&String>, Standing)| {
                let load = loads.get(&name.cloned()).copied().unwrap_or_default().saturating_add(bytes);
                let weight = if *standing == Standing::Busy { BUSY_WEIGHT } else { 1 };
                // Among equals a worker and not the coordinator, which serves all.
                (load.saturating_mul(weight), name.is_none())
            };
            let of = sources.min_by_key(cost).and_then(|(name, _)| name.cloned());
            *loads.entry(of.clone()).or_default() += bytes;
            match &of {
                Some(peer) => shares.peers.entry(peer.clone()).or_default().push(digest),
                None => shares.coordinator.push(digest),
            }
            asked.push(Asked { digest, bytes, of });
        }
        let tickets = &mut self.workers.entry(asker.to_owned()).or_default().asked;
        tickets.insert(ticket, asked);
        while tickets.len() > TICKETS_LIMIT {
            tickets.pop_first();
        }
        shares
    }

    /// The coordinator sends what another source did not.
    pub(super) fn take_over(&mut self, asker: &str, ticket: u64, digests: &[Digest]) {
        let asked = self.workers.get_mut(asker).and_then(|entry| entry.asked.get_mut(&ticket));
        let digests: HashSet<&Digest> = digests.iter().collect();
        for asked in asked.into_iter().flatten().filter(|asked| digests.contains(&asked.digest)) {
            asked.of = None;
        }
    }

    /// All of a list has arrived.
    pub(super) fn note_arrived(&mut self, asker: &str, ticket: u64) {
        let Some(entry) = self.workers.get_mut(asker) else { return };
        for asked in entry.asked.remove(&ticket).into_iter().flatten() {
            let counts = &mut entry.counts;
            let bytes = if asked.of.is_some() { &mut counts.peer_bytes } else { &mut counts.coordinator_bytes };
            *bytes = bytes.saturating_add(asked.bytes);
        }
    }

    pub(super) fn counts(&self, worker: &str) -> WeightCounts {
        self.workers.get(worker).map(|entry| entry.counts).unwrap_or_default()
    }

    /// Bytes that each source was asked for and that have not arrived.
    fn loads(&self) -> HashMap<Option<String>, u64> {
        let mut loads: HashMap<Option<String>, u64> = HashMap::new();
        for asked in self.workers.values().flat_map(|entry| entry.asked.values().flatten()) {
            let load = loads.entry(asked.of.clone()).or_default();
            *load = load.saturating_add(asked.bytes);
        }
        loads
    }
}

fn remove_holder(by_digest: &mut HashMap<Digest, BTreeSet<String>>, digest: &Digest, worker: &str) {
    if let Some(holders) = by_digest.get_mut(digest) {
        holders.remove(worker);
        if holders.is_empty() {
            by_digest.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    fn idle(_: &str) -> Option<Standing> {
        Some(Standing::Idle)
    }

    fn all(count: usize, bytes: u64) -> Vec<(Digest, u64)> {
        (0..count).map(|number| (digest(number), bytes)).collect()
    }

    fn held(holders: &mut Holders, worker: &str, count: usize) {
        let digests: Vec<Digest> = (0..count).map(digest).collect();
        holders.note_held(worker, &digests);
    }

    #[test]
    fn the_load_is_spread_over_holders_and_the_coordinator() {
        let mut holders = Holders::default();
        held(&mut holders, "a", 30);
        held(&mut holders, "b", 30);
        let shares = holders.share("new", 1, &all(30, 10), idle);
        assert_eq!(shares.coordinator.len(), 10);
        assert!(shares.peers.values().all(|digests| digests.len() == 10) && shares.peers.len() == 2);
    }

    #[test]
    fn what_is_under_way_counts_until_it_has_arrived() {
        let mut holders = Holders::default();
        held(&mut holders, "a", 2);
        assert_eq!(holders.share("b", 1, &all(1, 10), idle).peers.len(), 1);
        assert_eq!(holders.share("c", 1, &all(1, 10), idle).coordinator.len(), 1);
        holders.note_arrived("b", 1);
        assert_eq!(holders.share("d", 1, &all(1, 10), idle).peers.len(), 1);
        assert_eq!(holders.counts("b"), WeightCounts { coordinator_bytes: 0, peer_bytes: 10 });
    }

    #[test]
    fn a_worker_that_serves_a_job_is_asked_for_half_as_much() {
        let mut holders = Holders::default();
        held(&mut holders, "a", 30);
        let shares = holders.share("b", 1, &all(30, 10), |_| Some(Standing::Busy));
        assert_eq!((shares.coordinator.len(), shares.peers["a"].len()), (20, 10));
    }

    #[test]
    fn who_failed_is_not_asked_again_and_who_lacks_something_is_for_the_rest() {
        let mut holders = Holders::default();
        held(&mut holders, "a", 2);
        holders.share("b", 1, &all(2, 10), idle);
        holders.note_not_held("a", &[digest(0)]);
        holders.take_over("b", 1, &[digest(0), digest(1)]);
        holders.note_arrived("b", 1);
        assert_eq!(holders.counts("b"), WeightCounts { coordinator_bytes: 20, peer_bytes: 0 });
        let shares = holders.share("b", 2, &all(2, 10), idle);
        assert_eq!((shares.coordinator, shares.peers["a"].clone()), (vec![digest(0)], vec![digest(1)]));
        holders.avoid("b", "a");
        assert!(holders.share("b", 3, &all(2, 10), idle).peers.is_empty());
        assert!(!holders.share("c", 1, &all(2, 10), idle).peers.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut holders = Holders::default();
        held(&mut holders, "a", HELD_WEIGHTS_LIMIT + 10);
        assert_eq!(holders.by_digest.len(), HELD_WEIGHTS_LIMIT);
        assert!(holders.share("b", 0, &[(digest(9), 1)], idle).peers.is_empty());
        for ticket in 0..100 {
            holders.share("b", ticket, &all(3, 1), idle);
            holders.avoid("b", &format!("nobody-{ticket}"));
        }
        assert_eq!(holders.workers["b"].asked.len(), TICKETS_LIMIT);
        assert!(holders.workers["b"].avoided.is_empty());
        holders.forget("a");
        holders.forget("b");
        assert!(holders.by_digest.is_empty() && holders.workers.is_empty());
    }

    proptest! {
        /// Whatever is held, lost, avoided and under way: each parameter has one source; a worker is one only if it holds it, may serve, is not the
        /// asker and did not fail it; no more workers are asked than may be; and no source has more to send than another holder of the
        /// same by more than a parameter, if all are idle.
        #[test]
        fn each_parameter_comes_from_one_source_that_has_it(
            steps in prop::collection::vec((0u8..6, 0usize..8, prop::collection::vec(0usize..40, 0..20), 1u64..100), 1..60),
            silent in 0usize..8,
        ) {
            let name = |number: usize| format!("w{number}");
            let mut holders = Holders::default();
            let mut model: HashMap<usize, HashSet<usize>> = HashMap::new();
            let mut avoided: HashSet<(usize, usize)> = HashSet::new();
            let standing = |worker: &str| (worker != name(silent)).then_some(Standing::Idle);
            for (step, (action, worker, numbers, bytes)) in steps.into_iter().enumerate() {
                let digests: Vec<Digest> = numbers.iter().copied().map(digest).collect();
                let other = (worker + 1) % 8;
                match action {
                    0 | 1 => {
                        holders.note_held(&name(worker), &digests);
                        model.entry(worker).or_default().extend(&numbers);
                    }
                    2 => {
                        holders.note_not_held(&name(worker), &digests);
                        model.entry(worker).or_default().retain(|number| !numbers.contains(number));
                    }
                    3 => {
                        let is_known = holders.workers.contains_key(&name(other));
                        holders.avoid(&name(worker), &name(other));
                        if is_known {
                            avoided.insert((worker, other));
                        }
                    }
                    4 => {
                        holders.forget(&name(worker));
                        model.remove(&worker);
                        avoided.retain(|(asker, peer)| *asker != worker && *peer != worker);
                    }
                    _ => {
                        let mut unique = numbers.clone();
                        unique.sort_unstable();
                        unique.dedup();
                        let wanted: Vec<(Digest, u64)> = unique.iter().map(|&number| (digest(number), bytes)).collect();
                        let shares = holders.share(&name(worker), step as u64, &wanted, standing);
                        let mut given: Vec<Digest> = shares.peers.values().flatten().chain(&shares.coordinator).copied().collect();
                        given.sort_unstable();
                        let mut expected: Vec<Digest> = wanted.iter().map(|(digest, _)| *digest).collect();
                        expected.sort_unstable();
                        prop_assert_eq!(given, expected);
                        prop_assert!(shares.peers.len() <= PEERS_AT_A_TIME);
                        for (peer, digests) in &shares.peers {
                            let peer = (0..8).find(|&number| name(number) == *peer).unwrap();
                            prop_assert!(peer != worker && peer != silent && !avoided.contains(&(worker, peer)));
                            let held = &model[&peer];
                            prop_assert!(digests.iter().all(|found| held.iter().any(|&number| digest(number) == *found)));
                        }
                        let loads = holders.loads();
                        let load = |of: &Option<String>| loads.get(of).copied().unwrap_or_default();
                        for peer in shares.peers.keys() {
                            prop_assert!(load(&Some(peer.clone())) <= load(&None) + bytes);
                        }
                    }
                }
            }
        }
    }
}
