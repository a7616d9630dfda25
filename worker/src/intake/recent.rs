//! The newest of what has passed, up to a bound.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

#[derive(Debug)]
pub(super) struct Recent<T> {
    limit: usize,
    known: HashSet<T>,
    order: VecDeque<T>,
}

impl<T: Clone + Eq + Hash> Recent<T> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, known: HashSet::new(), order: VecDeque::new() }
    }

    /// Adds one and forgets the oldest if there are too many.
    pub(super) fn add(&mut self, item: T) {
        if !self.known.insert(item.clone()) {
            return;
        }
        self.order.push_back(item);
        if self.order.len() > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn forget(&mut self, item: &T) {
        if self.known.remove(item) {
            self.order.retain(|other| other != item);
        }
    }

    pub(super) fn contains(&self, item: &T) -> bool {
        self.known.contains(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = Recent::new(2);
        for item in [1, 2, 2, 3] {
            recent.add(item);
        }
        assert_eq!([1, 2, 3].map(|item| recent.contains(&item)), [false, true, true]);
        recent.forget(&2);
        recent.add(4);
        assert_eq!([2, 3, 4].map(|item| recent.contains(&item)), [false, true, true]);
    }
}
