//! Devices of which each reaches each: where links are known to carry nothing, plans for fewer devices come into question too.

use crate::{Links, Rank};

/// The devices without those that most of the links have in common that cannot be used, in the same order; `None` if all links can be.
///
/// Who is left is not always the most that it could be (that is a maximum clique), but with one broken link, or all of one device's, it is.
pub(super) fn reachable(devices: &[(Rank, f64)], links: &Links) -> Option<Vec<(Rank, f64)>> {
    let is_broken =
        |one: Rank, other: Rank| [(one, other), (other, one)].iter().any(|&(from, to)| !links.can_carry(from, to));
    let mut left = devices.to_vec();
    loop {
        let broken =
            |of: usize| left.iter().filter(|other| other.0 != left[of].0 && is_broken(left[of].0, other.0)).count();
        // The last of those that have most: the slowest.
        let worst = (0..left.len()).max_by_key(|&device| broken(device)).filter(|&device| broken(device) > 0);
        match worst {
            Some(device) => drop(left.remove(device)),
            None => return (left.len() < devices.len()).then_some(left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkCost;

    fn devices(count: u16) -> Vec<(Rank, f64)> {
        (0..count).map(|rank| (Rank(rank), 1.0)).collect()
    }

    fn broken(pairs: &[(u16, u16)]) -> Links {
        let mut links = Links::uniform(LinkCost::FREE);
        for &(from, to) in pairs {
            links.set(Some(Rank(from)), Some(Rank(to)), LinkCost::UNUSABLE);
        }
        links
    }

    fn left(count: u16, pairs: &[(u16, u16)]) -> Option<Vec<u16>> {
        let found = reachable(&devices(count), &broken(pairs))?;
        Some(found.into_iter().map(|(rank, _)| rank.0).collect())
    }

    #[test]
    fn nothing_is_left_out_where_all_links_carry() {
        assert_eq!(left(4, &[]), None);
        assert_eq!(left(1, &[(0, 1)]), None, "the other end is not among the devices");
    }

    #[test]
    fn one_way_that_is_broken_leaves_its_slower_end_out() {
        assert_eq!(left(2, &[(0, 1)]), Some(vec![0]));
        assert_eq!(left(2, &[(1, 0)]), Some(vec![0]));
        assert_eq!(left(4, &[(1, 2)]), Some(vec![0, 1, 3]));
    }

    #[test]
    fn a_device_that_reaches_nobody_is_left_out_and_nobody_else() {
        assert_eq!(left(4, &[(1, 0), (1, 2), (3, 1)]), Some(vec![0, 2, 3]));
    }

    #[test]
    fn of_two_hosts_that_do_not_reach_each_other_one_is_left() {
        let between: Vec<(u16, u16)> = (0..2).flat_map(|from| (2..4).map(move |to| (from, to))).collect();
        assert_eq!(left(4, &between), Some(vec![0, 1]));
    }
}
