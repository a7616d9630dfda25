//! What goes wrong, in which direction, when.

use std::num::NonZeroU64;
use std::time::Duration;

/// One way through a wrapped link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first end to the second.
    FirstToSecond,
    /// From the second end to the first.
    SecondToFirst,
}

/// What is wrong with one direction. The default is a perfect network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Time on the way for every frame. Default: none. A tensor takes it besides the time that its bytes take.
    pub delay: Duration,
    /// Up to this much more for each tensor, by chance, so that tensors overtake each other. Default: none, which keeps
    /// their order. Control frames keep their order always.
    pub jitter: Duration,
    /// How fast tensors go, one after the other. Default: as fast as the machine. Control frames are not slowed: they
    /// have a connection of their own.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Nothing gets through. Default: no. Frames wait for the cut to end; see [`FaultScript::lost_after`].
    pub cut: bool,
}

/// A direction's faults from some time on.
#[derive(Clone, Debug)]
pub struct Change {
    /// When, counted from the wrapping.
    pub after: Duration,
    /// Which way.
    pub direction: Direction,
    /// The faults from then on, in place of those before.
    pub faults: Faults,
}

/// Everything that goes wrong with one link.
#[derive(Clone, Debug)]
pub struct FaultScript {
    /// Where chance starts. Printed when the link is wrapped, so that a failure can be repeated.
    pub seed: u64,
    /// How long a cut in either direction may last before both ends count each other as lost. Default: 2 s, as on
    /// control connections.
    pub lost_after: Duration,
    /// The changes, in any order. Those without delay hold from the first frame on.
    pub changes: Vec<Change>,
}

impl FaultScript {
    /// A perfect network, to be changed by hand.
    #[must_use]
    pub fn perfect(seed: u64) -> Self {
        Self { seed, lost_after: Duration::from_secs(2), changes: Vec::new() }
    }

    /// A network with these faults in both directions from the start.
    #[must_use]
    pub fn both_ways(seed: u64, faults: &Faults) -> Self {
        let change = |direction| Change { after: Duration::ZERO, direction, faults: faults.clone() };
        let changes = vec![change(Direction::FirstToSecond), change(Direction::SecondToFirst)];
        Self { changes, ..Self::perfect(seed) }
    }
}
