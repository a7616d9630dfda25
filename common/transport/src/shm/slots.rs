//! Which parts of a ring are in use, and by how many: no memory, only the book-keeping.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::{RING_BYTES, TENSORS_IN_FLIGHT};

/// What slots are rounded up to: a page, so that the receiver's kernels find every alignment that they like, and no two
/// tensors share a line of a cache.
const SLOT_UNIT_BYTES: usize = 4096;

/// The slots of one ring.
#[derive(Default)]
pub(super) struct Slots {
    /// By where they begin; they do not overlap.
    taken: BTreeMap<usize, Slot>,
    tickets: HashMap<u32, Ticket>,
    next_ticket: u32,
    in_flight_bytes: usize,
}

struct Slot {
    end: usize,
    /// The sender's own handle, and each tensor in flight from here.
    holders: u32,
}

/// A tensor in flight.
struct Ticket {
    slot: usize,
    bytes: usize,
}

impl Slots {
    /// Takes the lowest place that is free and ends within `limit`, for one holder. Returns where it begins.
    pub(super) fn take(&mut self, bytes: usize, limit: usize) -> Option<usize> {
        let bytes = bytes.max(1).checked_next_multiple_of(SLOT_UNIT_BYTES)?;
        let mut begin = 0;
        for (&taken, slot) in &self.taken {
            if taken - begin >= bytes {
                break;
            }
            begin = slot.end;
        }
        let end = begin.checked_add(bytes).filter(|&end| end <= limit)?;
        self.taken.insert(begin, Slot { end, holders: 1 });
        Some(begin)
    }

    /// One holder less. Returns whether the slot is free now.
    pub(super) fn release(&mut self, slot: usize) -> bool {
        let Some(held) = self.taken.get_mut(&slot) else { return false };
        held.holders = held.holders.saturating_sub(1);
        let is_free = held.holders == 0;
        if is_free {
            self.taken.remove(&slot);
        }
        is_free
    }

    /// Counts a part of a slot as in flight, which holds the slot. `None` while too much is in flight.
    pub(super) fn send(&mut self, range: Range<usize>) -> Option<u32> {
        let (&begin, slot) = self.taken.range_mut(..=range.start).next_back()?;
        let bytes = range.len();
        let fits = self.tickets.len() < TENSORS_IN_FLIGHT && self.in_flight_bytes + bytes <= RING_BYTES;
        if range.end > slot.end || !fits {
            return None;
        }
        while self.tickets.contains_key(&self.next_ticket) {
            self.next_ticket = self.next_ticket.wrapping_add(1);
        }
        let number = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        slot.holders += 1;
        self.in_flight_bytes += bytes;
        self.tickets.insert(number, Ticket { slot: begin, bytes });
        Some(number)
    }

    /// The receiver has let go of a tensor. Returns whether there was one of that number.
    pub(super) fn take_back(&mut self, ticket: u32) -> bool {
        let Some(Ticket { slot, bytes }) = self.tickets.remove(&ticket) else { return false };
        self.in_flight_bytes -= bytes;
        self.release(slot);
        true
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.tickets.is_empty() && self.in_flight_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_lowest_place_is_taken_first() {
        let mut slots = Slots::default();
        assert_eq!(
            [slots.take(1, RING_BYTES), slots.take(5000, RING_BYTES), slots.take(4096, RING_BYTES)],
            [Some(0), Some(4096), Some(3 * 4096)]
        );
        assert!(slots.release(4096));
        assert_eq!([slots.take(9000, RING_BYTES), slots.take(8192, RING_BYTES)], [Some(4 * 4096), Some(4096)]);
    }

    #[test]
    fn a_ring_is_full_when_it_is_full() {
        let mut slots = Slots::default();
        assert_eq!([slots.take(RING_BYTES, RING_BYTES), slots.take(1, RING_BYTES)], [Some(0), None]);
        assert_eq!([slots.take(RING_BYTES + 1, RING_BYTES), slots.take(usize::MAX, RING_BYTES)], [None, None]);
        assert!(slots.release(0));
        assert_eq!(slots.take(RING_BYTES, RING_BYTES), Some(0));
    }

    #[test]
    fn a_slot_is_free_when_its_owner_and_every_receiver_have_let_go() {
        let mut slots = Slots::default();
        let slot = slots.take(100, RING_BYTES).unwrap();
        let [first, second] = [slots.send(0..100).unwrap(), slots.send(10..20).unwrap()];
        assert!(!slots.release(slot) && slots.take_back(first));
        assert!(!slots.is_empty());
        assert!(slots.take_back(second) && !slots.take_back(second));
        assert!(slots.is_empty());
    }

    #[test]
    fn what_is_in_flight_is_bounded_in_number_and_in_bytes() {
        let mut slots = Slots::default();
        slots.take(RING_BYTES / 2 + 1, RING_BYTES).unwrap();
        let tickets: Vec<u32> = (0..TENSORS_IN_FLIGHT).map(|_| slots.send(0..1).unwrap()).collect();
        assert_eq!(slots.send(0..1), None);
        tickets.iter().for_each(|&ticket| assert!(slots.take_back(ticket)));
        assert!(slots.send(0..RING_BYTES / 2 + 1).is_some());
        assert_eq!(slots.send(0..RING_BYTES / 2 + 1), None, "together more than a ring");
    }

    #[test]
    fn what_lies_in_no_slot_is_not_sent() {
        let mut slots = Slots::default();
        assert_eq!(slots.send(0..1), None);
        slots.take(4096, RING_BYTES).unwrap();
        assert_eq!([slots.send(0..4097), slots.send(4096..4097)], [None, None]);
    }

    proptest! {
        #[test]
        fn slots_never_overlap(takes in prop::collection::vec((1usize..RING_BYTES / 3, any::<bool>()), 1..200)) {
            let mut slots = Slots::default();
            let mut held: Vec<Range<usize>> = Vec::new();
            for (bytes, also_frees) in takes {
                if let Some(begin) = slots.take(bytes, RING_BYTES) {
                    let range = begin..begin + bytes;
                    prop_assert!(range.end <= RING_BYTES);
                    prop_assert!(held.iter().all(|other| other.end <= range.start || range.end <= other.start));
                    held.push(range);
                }
                if also_frees && !held.is_empty() {
                    prop_assert!(slots.release(held.swap_remove(bytes % held.len()).start));
                }
            }
            held.iter().for_each(|range| { slots.release(range.start); });
            prop_assert!(slots.is_empty());
        }
    }
}
