//! The versions of one value on one edge, in the order in which differences build on each other.
//!
//! Tensors of an edge may arrive in any order, and a sender may compute a version before an older one that waits for something: each waits here
//! until its base is there. Both ends of an edge have one, and see the same order.

use thiserror::Error;

use crate::{Instance, StepIndex, Transfer};

/// What waits for its base, and which versions are there.
#[derive(Debug)]
pub struct Chain<T> {
    /// The newest version of each half of the batch.
    newest: [Option<StepIndex>; 2],
    waiting: Vec<(Transfer, T)>,
    limit: usize,
}

/// Why a version does not fit an edge's order: a tensor was lost, came twice or was not planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChainError {
    /// More versions wait than are ever under way, so the base of the oldest will not come.
    #[error("{instance:?} is based on the version of step {base}, which never came")]
    BaseMissing {
        /// What waits.
        instance: Instance,
        /// For which version.
        base: StepIndex,
    },
    /// It waits already, or a version that is as new was there before.
    #[error("{0:?} came twice or after a newer version")]
    OutOfOrder(Instance),
}

impl<T> Chain<T> {
    /// `run_ahead`: how many steps a sender can be ahead of a receiver; see [`Plan::run_ahead`](crate::Plan::run_ahead).
    #[must_use]
    pub fn new(run_ahead: u32) -> Self {
        // At most one version per step, in at most two halves.
        let limit = (run_ahead as usize).saturating_add(1).saturating_mul(2);
        Self { newest: [None; 2], waiting: Vec::new(), limit }
    }

    /// Takes a version, which [`poll_next`](Self::poll_next) hands out when its base is there.
    pub fn insert(&mut self, transfer: Transfer, item: T) -> Result<(), ChainError> {
        let instance = transfer.instance;
        let passed = self.newest[instance.lane.halves()].iter().any(|newest| *newest >= Some(instance.step));
        if passed || self.waiting.iter().any(|(waiting, _)| waiting.instance == instance) {
            return Err(ChainError::OutOfOrder(instance));
        }
        if self.waiting.len() >= self.limit {
            let oldest = self.waiting.iter().map(|(waiting, _)| waiting).min_by_key(|waiting| waiting.instance.step);
            let Transfer { instance, base, .. } = *oldest.unwrap_or(&transfer);
            return Err(ChainError::BaseMissing { instance, base: base.unwrap_or_default() });
        }
        self.waiting.push((transfer, item));
        Ok(())
    }

    /// The next version whose base is there; what is handed out counts as there.
    pub fn poll_next(&mut self) -> Option<(Transfer, T)> {
        let is_next = |(transfer, _): &(Transfer, T)| {
            let newest = &self.newest[transfer.instance.lane.halves()];
            transfer.base.is_none() || newest.iter().all(|newest| *newest == transfer.base)
        };
        let index = self.waiting.iter().position(is_next)?;
        let (transfer, item) = self.waiting.swap_remove(index);
        self.newest[transfer.instance.lane.halves()].fill(Some(transfer.instance.step));
        Some((transfer, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, Lane, Rank, ValueId};

    fn transfer(step: u32, lane: Lane, base: Option<u32>) -> Transfer {
        let encoding = if base.is_some() { Encoding::Delta8 } else { Encoding::Full };
        let instance = Instance { value: ValueId(3), step: StepIndex(step), lane };
        Transfer { instance, from: Rank(0), to: Rank(1), encoding, base: base.map(StepIndex) }
    }

    fn drain(chain: &mut Chain<()>) -> Vec<u32> {
        std::iter::from_fn(|| chain.poll_next()).map(|(transfer, ())| transfer.instance.step.0).collect()
    }

    #[test]
    fn versions_wait_for_their_bases() {
        let mut chain = Chain::new(4);
        for step in [3, 2, 4] {
            chain.insert(transfer(step, Lane::Whole, Some(step - 1)), ()).unwrap();
            assert_eq!(drain(&mut chain), []);
        }
        chain.insert(transfer(1, Lane::Whole, None), ()).unwrap();
        assert_eq!(drain(&mut chain), [1, 2, 3, 4]);
    }

    #[test]
    fn a_whole_version_waits_for_both_halves_of_its_base() {
        let mut chain = Chain::new(4);
        chain.insert(transfer(1, Lane::Whole, Some(0)), ()).unwrap();
        chain.insert(transfer(0, Lane::Conditional, None), ()).unwrap();
        assert_eq!(drain(&mut chain), [0]);
        chain.insert(transfer(0, Lane::Unconditional, None), ()).unwrap();
        assert_eq!(drain(&mut chain), [0, 1]);
    }

    #[test]
    fn halves_do_not_wait_for_each_other() {
        let mut chain = Chain::new(4);
        for step in 0..3u32 {
            chain.insert(transfer(step, Lane::Conditional, step.checked_sub(1)), ()).unwrap();
        }
        assert_eq!(drain(&mut chain), [0, 1, 2]);
    }

    #[test]
    fn what_comes_twice_or_late_is_refused() {
        let mut chain = Chain::new(4);
        let second = transfer(2, Lane::Whole, Some(1));
        chain.insert(second, ()).unwrap();
        assert_eq!(chain.insert(second, ()), Err(ChainError::OutOfOrder(second.instance)));
        chain.insert(transfer(1, Lane::Whole, None), ()).unwrap();
        assert_eq!(drain(&mut chain), [1, 2]);
        assert_eq!(chain.insert(second, ()), Err(ChainError::OutOfOrder(second.instance)));
    }

    #[test]
    fn a_base_that_never_comes_is_an_error_and_not_a_growing_queue() {
        let mut chain = Chain::new(2);
        let failed = (2..100).find_map(|step| chain.insert(transfer(step, Lane::Whole, Some(step - 1)), ()).err());
        let instance = transfer(2, Lane::Whole, None).instance;
        assert_eq!(failed, Some(ChainError::BaseMissing { instance, base: StepIndex(1) }));
        assert!(chain.waiting.len() <= 6);
    }
}
