//! Whose turn it is: parameters that several askers wait for, and how much of them is in flight. Pure.
//!
//! Of the askers that may have more in flight, the one that got the fewest bytes is next, so that who asks for large parameters does not keep
//! the others waiting; among equals the one who came first. Who comes anew begins where the least served of the others is: a pause is no credit.

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

/// Parameters that one asker may wait for: a worker asks for a few tens of megabytes at a time for each of a few parts, and the smallest parameters
/// have hundreds of bytes. Several times those of the largest denoiser.
pub(super) const WAITING_LIMIT: usize = 16 * 1024;

/// Somebody who asks, by a number that is never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct AskerNumber(pub(super) u64);

/// An asker waits for more parameters than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it asked for more parameters than it may at a time")]
pub struct TooManyAsked;

/// What may be in flight: read, and not yet let go of by its link. A larger parameter goes when nothing else is.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlightLimits {
    /// Bytes of one asker.
    pub(super) asker_bytes: u64,
    /// Parameters of one asker: each is a read on a thread of its own.
    pub(super) asker_parameters: usize,
    /// Bytes of all together.
    pub(super) all_bytes: u64,
}

/// Who waits for what.
#[derive(Debug)]
pub(super) struct Turns<T> {
    limits: InFlightLimits,
    askers: BTreeMap<AskerNumber, Asker<T>>,
    next_number: u64,
    in_flight_bytes: u64,
}

/// The next parameter that is to leave.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Turn<T> {
    pub(super) asker: AskerNumber,
    pub(super) what: T,
    pub(super) bytes: u64,
}

#[derive(Debug)]
struct Asker<T> {
    waiting: VecDeque<(T, u64)>,
    in_flight_bytes: u64,
    in_flight: usize,
    served_bytes: u64,
}

impl<T> Asker<T> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_flight == 0
    }

    /// Whether it waits for something that may be in flight with what is.
    fn has_room(&self, limits: &InFlightLimits) -> bool {
        let Some((_, bytes)) = self.waiting.front() else { return false };
        let fits = self.in_flight_bytes.saturating_add(*bytes) <= limits.asker_bytes;
        self.in_flight == 0 || (fits && self.in_flight < limits.asker_parameters)
    }
}

impl<T> Turns<T> {
    pub(super) fn new(limits: InFlightLimits) -> Self {
        Self { limits, askers: BTreeMap::new(), next_number: 0, in_flight_bytes: 0 }
    }

    pub(super) fn add(&mut self) -> AskerNumber {
        let number = AskerNumber(self.next_number);
        self.next_number += 1;
        let asker = Asker { waiting: VecDeque::new(), in_flight_bytes: 0, in_flight: 0, served_bytes: 0 };
        self.askers.insert(number, asker);
        number
    }

    /// Forgets what an asker waits for. What is in flight counts until it is done.
    pub(super) fn remove(&mut self, asker: AskerNumber) {
        self.askers.remove(&asker);
    }

    /// Takes all of it or nothing.
    pub(super) fn ask(
        &mut self,
        asker: AskerNumber,
        what: impl ExactSizeIterator<Item = (T, u64)>,
    ) -> Result<(), TooManyAsked> {
        let others = self.askers.iter().filter(|(number, other)| **number != asker && !other.is_idle());
        let least = others.map(|(_, other)| other.served_bytes).min();
        let Some(asker) = self.askers.get_mut(&asker) else { return Ok(()) };
        if asker.waiting.len().saturating_add(what.len()) > WAITING_LIMIT {
            return Err(TooManyAsked);
        }
        if asker.is_idle() {
            asker.served_bytes = asker.served_bytes.max(least.unwrap_or_default());
        }
        asker.waiting.extend(what);
        Ok(())
    }

    /// The next parameter, which is in flight from now on. None while nobody waits or too much is in flight.
    pub(super) fn next(&mut self) -> Option<Turn<T>> {
        let limits = self.limits;
        let ready = self.askers.iter_mut().filter(|(_, asker)| asker.has_room(&limits));
        let (&number, asker) = ready.min_by_key(|(number, asker)| (asker.served_bytes, **number))?;
        let bytes = asker.waiting.front()?.1;
        // Nobody overtakes who waits for this: a large parameter would never go.
        if self.in_flight_bytes > 0 && self.in_flight_bytes.saturating_add(bytes) > limits.all_bytes {
            return None;
        }
        let (what, bytes) = asker.waiting.pop_front()?;
        asker.in_flight += 1;
        asker.in_flight_bytes = asker.in_flight_bytes.saturating_add(bytes);
        asker.served_bytes = asker.served_bytes.saturating_add(bytes);
        self.in_flight_bytes = self.in_flight_bytes.saturating_add(bytes);
        Some(Turn { asker: number, what, bytes })
    }

    /// A parameter is not in flight any more.
    pub(super) fn done(&mut self, asker: AskerNumber, bytes: u64) {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
        if let Some(asker) = self.askers.get_mut(&asker) {
            asker.in_flight = asker.in_flight.saturating_sub(1);
            asker.in_flight_bytes = asker.in_flight_bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: InFlightLimits = InFlightLimits { asker_bytes: 16, asker_parameters: 4, all_bytes: 40 };

    fn ask(turns: &mut Turns<usize>, asker: AskerNumber, sizes: &[u64]) {
        turns.ask(asker, sizes.iter().copied().enumerate()).unwrap();
    }

    /// Everything that leaves when each parameter is let go of at once.
    fn drained(turns: &mut Turns<usize>) -> Vec<(u64, u64)> {
        let mut left = Vec::new();
        while let Some(turn) = turns.next() {
            turns.done(turn.asker, turn.bytes);
            left.push((turn.asker.0, turn.bytes));
        }
        left
    }

    #[test]
    fn who_asks_for_large_parameters_does_not_keep_others_waiting() {
        let mut turns = Turns::new(LIMITS);
        let (large, small) = (turns.add(), turns.add());
        ask(&mut turns, large, &[30, 30]);
        ask(&mut turns, small, &[10; 6]);
        let order: Vec<u64> = drained(&mut turns).into_iter().map(|(asker, _)| asker).collect();
        assert_eq!(order, [0, 1, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn a_pause_is_no_credit() {
        let mut turns = Turns::new(LIMITS);
        let (busy, late) = (turns.add(), turns.add());
        ask(&mut turns, busy, &[10; 100]);
        for _ in 0..50 {
            let turn = turns.next().unwrap();
            turns.done(turn.asker, turn.bytes);
        }
        ask(&mut turns, late, &[10; 10]);
        let next: Vec<u64> = drained(&mut turns).into_iter().take(10).map(|(asker, _)| asker).collect();
        assert_eq!(next.iter().filter(|&&asker| asker == late.0).count(), 5, "{next:?}");
    }

    #[test]
    fn an_asker_that_takes_nothing_stops_nobody_else() {
        let mut turns = Turns::new(LIMITS);
        let (stuck, other) = (turns.add(), turns.add());
        ask(&mut turns, stuck, &[8; 10]);
        let stuck_turns = std::iter::from_fn(|| turns.next()).count();
        assert_eq!(stuck_turns, 2, "no more than it may have in flight");
        ask(&mut turns, other, &[8; 100]);
        assert_eq!(drained(&mut turns).len(), 100);
    }

    #[test]
    fn too_much_at_a_time_is_refused_as_a_whole() {
        let mut turns = Turns::new(LIMITS);
        let asker = turns.add();
        ask(&mut turns, asker, &vec![1; WAITING_LIMIT]);
        assert_eq!(turns.ask(asker, [(0, 1)].into_iter()), Err(TooManyAsked));
        assert_eq!(drained(&mut turns).len(), WAITING_LIMIT);
        turns.remove(asker);
        assert_eq!(turns.ask(asker, [(0, 1)].into_iter()), Ok(()));
        assert_eq!(turns.next(), None);
    }

    proptest! {
        /// Of two that both wait and take what they get, none gets more ahead of the other than the largest parameter.
        #[test]
        fn who_waits_gets_as_much_as_the_others(sizes in prop::collection::vec(prop::collection::vec(1u64..60, 0..30), 2..5)) {
            let mut turns = Turns::new(LIMITS);
            let askers: Vec<AskerNumber> = sizes.iter().map(|_| turns.add()).collect();
            for (&asker, sizes) in askers.iter().zip(&sizes) {
                ask(&mut turns, asker, sizes);
            }
            let (mut served, mut left) = (vec![0u64; askers.len()], vec![0; askers.len()]);
            for (asker, bytes) in drained(&mut turns) {
                served[asker as usize] += bytes;
                left[asker as usize] += 1;
                let waiting = (0..askers.len()).filter(|&index| left[index] < sizes[index].len()).map(|index| served[index]);
                let (least, most) = (waiting.clone().min(), waiting.max());
                prop_assert!(most.unwrap_or_default() <= least.unwrap_or_default() + 60);
            }
        }

        /// Bounds hold in every order of serving and letting go; each asker's parameters leave in its order, and all of them do.
        #[test]
        fn bounds_hold_and_everything_leaves(
            sizes in prop::collection::vec(prop::collection::vec(1u64..60, 0..30), 1..5),
            holds in prop::collection::vec(0usize..6, 0..300),
        ) {
            let mut turns = Turns::new(LIMITS);
            let askers: Vec<AskerNumber> = sizes.iter().map(|_| turns.add()).collect();
            for (&asker, sizes) in askers.iter().zip(&sizes) {
                ask(&mut turns, asker, sizes);
            }
            let mut left = vec![Vec::new(); askers.len()];
            let (mut flying, mut holds) = (Vec::new(), holds.into_iter());
            let total: usize = sizes.iter().map(Vec::len).sum();
            while left.iter().map(Vec::len).sum::<usize>() < total || !flying.is_empty() {
                let held = holds.next().unwrap_or_default();
                let turn = if flying.len() <= held { turns.next() } else { None };
                match turn {
                    Some(turn) => {
                        left[turn.asker.0 as usize].push((turn.what, turn.bytes));
                        flying.push((turn.asker, turn.bytes));
                        let all: u64 = flying.iter().map(|(_, bytes)| bytes).sum();
                        prop_assert!(all <= LIMITS.all_bytes || flying.len() == 1);
                        let own: Vec<u64> = flying.iter().filter(|(asker, _)| *asker == turn.asker).map(|(_, bytes)| *bytes).collect();
                        prop_assert!(own.len() == 1 || own.iter().sum::<u64>() <= LIMITS.asker_bytes && own.len() <= LIMITS.asker_parameters);
                    }
                    None if flying.is_empty() => {}
                    None => {
                        let (asker, bytes) = flying.remove(held % flying.len());
                        turns.done(asker, bytes);
                    }
                }
            }
            for (left, sizes) in left.iter().zip(&sizes) {
                let expected: Vec<(usize, u64)> = sizes.iter().copied().enumerate().collect();
                prop_assert_eq!(left, &expected);
            }
        }
    }
}
