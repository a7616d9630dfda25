//! What happens to a cluster, from a seed alone.

use std::num::NonZeroU64;
use std::time::Duration;

use asyncdiff_plan::{Encoding, TimeShift, Wishes};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::support::wishes;

/// Names of workers; not all of them are there at the beginning.
pub(super) const WORKERS: [&str; 4] = ["a", "b", "c", "d"];

/// Within this time everything happens: jobs take some seconds each.
const LASTS: Duration = Duration::from_secs(12);

/// Noise schedulers, with and without a memory of earlier steps.
const SCHEDULERS: [&str; 4] = ["ddim", "dpmpp-2m", "unipc", "euler-ancestral"];

#[derive(Debug)]
pub(super) struct Story {
    /// Chance for links starts here.
    pub(super) seed: u64,
    /// Operations per second of each worker's device.
    pub(super) rates: [f64; WORKERS.len()],
    /// Workers that are there from the beginning: the first so many.
    pub(super) at_first: usize,
    /// In the order of time.
    pub(super) events: Vec<(Duration, Happening)>,
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// A worker is drained: it goes once no job needs it.
    Drain(usize),
    /// A worker's device stands still for so long.
    Hang(usize, Duration),
    /// A worker joins; if it is there already, a second process of its name does.
    Join(usize),
    /// A worker leaves in peace.
    Leave(usize),
    /// What one process sends to another is held back, slow, or as it should be.
    Link {
        from: Process,
        to: Process,
        state: LinkState,
    },
    Submit(Job),
    /// A worker is gone without a word.
    Vanish(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Process {
    Coordinator,
    Worker(usize),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum LinkState {
    Cut,
    Healed,
    Slow { bytes_per_second: NonZeroU64, delay: Duration },
}

/// A job whose plan depends on nothing but these.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) steps: u32,
    pub(super) guidance_scale: f64,
    pub(super) scheduler: &'static str,
    pub(super) wishes: Wishes,
}

impl Story {
    pub(super) fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let rates = WORKERS.map(|_| 3.0e7 * chance.random_range(0.5..2.0));
        let at_first = chance.random_range(1..=3);
        let mut events = Vec::new();
        for _job in 0..chance.random_range(1..=3) {
            events.push((moment(&mut chance, 0.5), Happening::Submit(job(&mut chance))));
        }
        for _fault in 0..chance.random_range(1..=6) {
            events.extend(fault(&mut chance));
        }
        events.sort_by_key(|(when, _)| *when);
        Self { seed, rates, at_first, events }
    }
}

/// Within this part of the story.
fn moment(chance: &mut StdRng, part: f64) -> Duration {
    LASTS.mul_f64(chance.random_range(0.0..part))
}

fn job(chance: &mut StdRng) -> Job {
    let steps = chance.random_range(3..=12);
    let components = chance.random_range(2..=4);
    let (stride, warm_up) = match chance.random_range(0..4) {
        0 => (1, steps),
        1 => (2, 1),
        _ => (1, chance.random_range(1..=2)),
    };
    Job {
        steps,
        guidance_scale: if chance.random() { 7.5 } else { 1.0 },
        scheduler: SCHEDULERS[chance.random_range(0..SCHEDULERS.len())],
        wishes: Wishes {
            split_guidance: Some(false),
            encoding: Some(Encoding::Full),
            ..wishes(components, stride, warm_up, TimeShift::Off)
        },
    }
}

fn fault(chance: &mut StdRng) -> Vec<(Duration, Happening)> {
    let when = moment(chance, 1.0);
    let worker = chance.random_range(0..WORKERS.len());
    let later = when + moment(chance, 0.5);
    match chance.random_range(0..12) {
        0 | 1 => vec![(when, Happening::Join(worker))],
        2 => vec![(when, Happening::Leave(worker))],
        3 => vec![(when, Happening::Leave(worker)), (later, Happening::Join(worker))],
        4 => vec![(when, Happening::Vanish(worker))],
        5 => vec![(when, Happening::Vanish(worker)), (later, Happening::Join(worker))],
        6 => vec![(when, Happening::Hang(worker, moment(chance, 1.0)))],
        7 => vec![(when, Happening::Drain(worker))],
        8 => vec![(when, Happening::Drain(worker)), (later, Happening::Join(worker))],
        _ => link_fault(chance, worker, when, later),
    }
}

fn link_fault(chance: &mut StdRng, worker: usize, when: Duration, later: Duration) -> Vec<(Duration, Happening)> {
    let other = match chance.random_range(0..=WORKERS.len()) {
        index if index < WORKERS.len() && index != worker => Process::Worker(index),
        _ => Process::Coordinator,
    };
    let state = if chance.random() {
        LinkState::Cut
    } else {
        LinkState::Slow {
            bytes_per_second: NonZeroU64::new(chance.random_range(1_000..1_000_000)).unwrap_or(NonZeroU64::MIN),
            delay: Duration::from_millis(chance.random_range(0..300)),
        }
    };
    let mut ways = vec![(Process::Worker(worker), other), (other, Process::Worker(worker))];
    // One way or the other, or both.
    match chance.random_range(0..3) {
        0 => drop(ways.pop()),
        1 => drop(ways.remove(0)),
        _ => {}
    }
    let changes = ways.into_iter().flat_map(|(from, to)| {
        let change = |state| Happening::Link { from, to, state };
        [(when, change(state)), (later, change(LinkState::Healed))]
    });
    changes.collect()
}
