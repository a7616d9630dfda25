//! What happens to workers next, from a seed. Pure.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Workers that there are at most: one more than jobs have parts, for each job that may run at a time.
pub(super) const MOST: usize = 4;

/// The longest time between two acts, in milliseconds. A job takes a second or two: most are hit, some are not.
const PAUSE_MILLISECONDS: u64 = 4000;

/// How long a worker stands still, in milliseconds: sometimes too short to be lost (1.5 s), sometimes long enough to come back as another
/// session.
const STANDSTILL_MILLISECONDS: (u64, u64) = (200, 8000);

/// Something that is done to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The worker of this place leaves in order.
    Drain(usize),
    Join,
    /// SIGKILL to the worker of this place.
    Kill(usize),
    /// SIGSTOP to it, and SIGCONT after that time.
    Stop(usize, Duration),
}

/// Who can be done something to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Population {
    /// Places of those that do their work and may end. The others are kept, as one that can be watched for as long as all lasts.
    pub(super) mortal: Vec<usize>,
    /// Places of all that do their work.
    pub(super) working: Vec<usize>,
    /// Processes, those that stand still or are leaving included.
    pub(super) processes: usize,
}

/// Draws acts.
pub(super) struct Churn(StdRng);

impl Churn {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// How long nothing happens.
    pub(super) fn pause(&mut self) -> Duration {
        Duration::from_millis(self.0.random_range(0..PAUSE_MILLISECONDS))
    }

    /// What happens then; nothing, if nothing may. Somebody always goes on working.
    pub(super) fn act(&mut self, there: &Population) -> Option<Act> {
        let mut kinds: Vec<u8> = Vec::new();
        if there.processes < MOST {
            kinds.push(0);
        }
        if there.working.len() > 1 {
            kinds.push(1);
            if !there.mortal.is_empty() {
                kinds.extend([2, 3]);
            }
        }
        let pick = |random: &mut StdRng, of: &[usize]| of[random.random_range(0..of.len())];
        let (shortest, longest) = STANDSTILL_MILLISECONDS;
        if kinds.is_empty() {
            return None;
        }
        Some(match kinds[self.0.random_range(0..kinds.len())] {
            0 => Act::Join,
            1 => {
                let standstill = Duration::from_millis(self.0.random_range(shortest..longest));
                Act::Stop(pick(&mut self.0, &there.working), standstill)
            }
            2 => Act::Kill(pick(&mut self.0, &there.mortal)),
            _ => Act::Drain(pick(&mut self.0, &there.mortal)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn population(working: usize, processes: usize) -> Population {
        Population { mortal: (1..working).collect(), working: (0..working).collect(), processes }
    }

    #[test]
    fn a_seed_gives_the_same_acts_and_another_one_others() {
        let acts = |seed| {
            let mut churn = Churn::new(seed);
            (0..20).map(|_| (churn.pause(), churn.act(&population(3, 3)))).collect::<Vec<_>>()
        };
        assert_eq!(acts(1), acts(1));
        assert_ne!(acts(1), acts(2));
    }

    #[test]
    fn all_kinds_come_and_the_last_worker_is_left_alone() {
        let mut churn = Churn::new(3);
        let kinds: BTreeSet<String> = (0..200)
            .filter_map(|_| churn.act(&population(3, 3)))
            .map(|act| format!("{act:?}").split('(').next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(kinds, ["Drain", "Join", "Kill", "Stop"].map(str::to_owned).into());
        for _act in 0..200 {
            assert_eq!(churn.act(&population(1, 2)), Some(Act::Join));
            assert_eq!(churn.act(&population(1, MOST)), None);
            assert_ne!(churn.act(&population(3, MOST)), Some(Act::Join));
            assert!(!matches!(churn.act(&population(2, 2)), Some(Act::Kill(0) | Act::Drain(0))), "it is kept");
        }
    }
}
