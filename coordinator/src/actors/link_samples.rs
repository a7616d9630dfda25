//! Which links between workers are measured: all of a small cluster's; of a large one's, one from each host to each, for their number grows with
//! the square of the workers'. What a plan then uses is measured too before it is carried out.

use std::collections::BTreeMap;

use super::session::KnownLink;

/// Sender and receiver, by rank.
pub(super) type Pair = (usize, usize);

/// Links of a cluster that are all measured: of eight workers, in a second or two. More makes the first job wait, most of all where many workers
/// share a host's cores; fewer leaves more to assumption.
const ALL_MEASURED: usize = 56;

/// Links from one host to another that are tried, one after the other, until one can be used: a single worker's ports may be closed.
pub(super) const TRIED_PER_HOSTS: usize = 2;

/// What came of measuring a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usable {
    No,
    Yes,
}

impl Usable {
    pub(super) fn of(link: &KnownLink) -> Self {
        match link {
            KnownLink::Measured(_) => Self::Yes,
            KnownLink::Unusable { .. } => Self::No,
        }
    }
}

/// The links to measure now.
///
/// - `hosts`: by rank; workers of one host have links alike.
/// - `known`: what came of a link, if it was measured.
pub(super) fn to_measure(hosts: &[&str], known: impl Fn(Pair) -> Option<Usable>) -> Vec<Pair> {
    let is_unknown = |pair: &Pair| known(*pair).is_none();
    if pairs(hosts.len()).count() <= ALL_MEASURED {
        return pairs(hosts.len()).filter(is_unknown).collect();
    }
    let mut by_hosts: BTreeMap<(&str, &str), Vec<Pair>> = BTreeMap::new();
    for (from, to) in pairs(hosts.len()) {
        by_hosts.entry((hosts[from], hosts[to])).or_default().push((from, to));
    }
    let next = |alike: Vec<Pair>| {
        let found = || alike.iter().filter_map(|&pair| known(pair));
        let settled = found().any(|usable| usable == Usable::Yes) || found().count() >= TRIED_PER_HOSTS;
        if settled { None } else { alike.iter().copied().find(is_unknown) }
    };
    by_hosts.into_values().filter_map(next).collect()
}

/// From each host to each, the measured link that says most of those that were not: one that can be used before one that cannot.
pub(super) fn representatives<'a>(
    hosts: &[&'a str],
    known: impl Fn(Pair) -> Option<Usable>,
) -> BTreeMap<(&'a str, &'a str), Pair> {
    let mut found: BTreeMap<(&str, &str), (Usable, Pair)> = BTreeMap::new();
    for (from, to) in pairs(hosts.len()) {
        let Some(usable) = known((from, to)) else { continue };
        let best = found.entry((hosts[from], hosts[to])).or_insert((usable, (from, to)));
        if (best.0, usable) == (Usable::No, Usable::Yes) {
            *best = (usable, (from, to));
        }
    }
    found.into_iter().map(|(hosts, (_, pair))| (hosts, pair)).collect()
}

/// Every ordered pair of workers.
pub(super) fn pairs(workers: usize) -> impl Iterator<Item = Pair> {
    (0..workers).flat_map(move |from| (0..workers).filter(move |&to| to != from).map(move |to| (from, to)))
}

/// Shares pairs out to rounds in which nobody is twice.
pub(super) fn rounds(pairs: Vec<Pair>) -> Vec<Vec<Pair>> {
    let mut rounds: Vec<Vec<Pair>> = Vec::new();
    for (from, to) in pairs {
        let is_busy = |&(one, other): &Pair| [one, other].iter().any(|&end| end == from || end == to);
        match rounds.iter_mut().find(|round| !round.iter().any(is_busy)) {
            Some(round) => round.push((from, to)),
            None => rounds.push(vec![(from, to)]),
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// So many workers on each of so many hosts.
    fn hosts(hosts: usize, workers: usize) -> Vec<&'static str> {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        (0..hosts * workers).map(|rank| NAMES[rank / workers]).collect()
    }

    #[test]
    fn rounds_have_every_ordered_pair_once_and_nobody_twice_at_a_time() {
        for workers in 0..12 {
            let rounds = rounds(pairs(workers).collect());
            for round in &rounds {
                let ends: BTreeSet<usize> = round.iter().flat_map(|&(from, to)| [from, to]).collect();
                assert_eq!(ends.len(), 2 * round.len(), "{round:?}");
            }
            let all: Vec<Pair> = rounds.iter().flatten().copied().collect();
            let distinct: BTreeSet<Pair> = all.iter().copied().collect();
            assert_eq!((all.len(), distinct.len()), (workers * workers.saturating_sub(1), all.len()));
            assert!(distinct.iter().all(|&(from, to)| from != to && from < workers && to < workers));
            // Nobody waits for more than twice the rounds that its own links take.
            assert!(rounds.len() <= 4 * workers, "{} rounds of {workers} workers", rounds.len());
        }
    }

    #[test]
    fn all_links_of_a_small_cluster_are_measured() {
        assert_eq!(to_measure(&hosts(1, 8), |_| None).len(), 56);
        assert_eq!(to_measure(&hosts(4, 2), |(from, _)| (from == 0).then_some(Usable::No)).len(), 49);
    }

    #[test]
    fn one_link_from_each_host_to_each_is_measured_in_a_large_cluster() {
        assert_eq!(to_measure(&hosts(1, 64), |_| None), [(0, 1)]);
        let hosts = hosts(4, 16);
        let first = to_measure(&hosts, |_| None);
        assert_eq!(first.len(), 16, "{first:?}");
        let measured: BTreeSet<Pair> = first.into_iter().collect();
        assert!(to_measure(&hosts, |pair| measured.contains(&pair).then_some(Usable::Yes)).is_empty());
    }

    #[test]
    fn another_link_is_tried_where_the_first_cannot_be_used_and_no_third() {
        let hosts = hosts(1, 64);
        let tried = |pairs: &'static [Pair]| move |pair: Pair| pairs.contains(&pair).then_some(Usable::No);
        assert_eq!(to_measure(&hosts, tried(&[(0, 1)])), [(0, 2)]);
        assert!(to_measure(&hosts, tried(&[(0, 1), (0, 2)])).is_empty());
    }

    #[test]
    fn what_is_assumed_of_a_link_was_measured_between_the_same_hosts() {
        let hosts = hosts(2, 16);
        let known = |pair: Pair| match pair {
            (0, 16) => Some(Usable::No),
            (1, 17) | (0, 1) => Some(Usable::Yes),
            _ => None,
        };
        let found = representatives(&hosts, known);
        assert_eq!(found, BTreeMap::from([(("a", "a"), (0, 1)), (("a", "b"), (1, 17))]));
        let only_unusable = representatives(&hosts, |pair| known(pair).filter(|_| pair == (0, 16)));
        assert_eq!(only_unusable, BTreeMap::from([(("a", "b"), (0, 16))]));
    }
}
