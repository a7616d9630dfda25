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
    /// Where jobs are, and with it of which kind they are.
    pub(super) kept: Kept,
    /// Operations per second of each worker's device.
    pub(super) rates: [f64; WORKERS.len()],
    /// Workers that are there from the beginning: the first so many.
    pub(super) at_first: usize,
    /// In the order of time.
    pub(super) events: Vec<(Duration, Happening)>,
}

/// Where the coordinator has its jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// They end in latents, which are compared bit by bit. They would end with the coordinator, which does not crash.
    InMemory,
    /// They end in pictures, and survive the coordinator.
    OnDisk,
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// Somebody does not want one of the jobs any more: the n-th of those that there are.
    Cancel(usize),
    /// The coordinator ends without a word and is started again.
    Crash(Crash),
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
    /// A worker's power is gone: those who have a link to it hear nothing, not even that it is closed.
    PowerCut(usize),
    Submit(Job),
    /// One of the submissions comes again, under its key.
    SubmitAgain(usize),
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
    Slow { bytes_per_second: NonZeroU64, delay: Duration, jitter: Duration },
}

/// An end of the coordinator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub(super) death: Death,
    /// Not at once but in the middle of this write or sync to come.
    pub(super) in_write: Option<u32>,
    pub(super) down_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Others learn of it at once, and what was written and not synced is still there.
    Killed,
    /// Others hear nothing any more, and what was not synced is lost in part.
    PowerCut,
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
        let kept = if chance.random() { Kept::OnDisk } else { Kept::InMemory };
        let rates = WORKERS.map(|_| 3.0e7 * chance.random_range(0.5..2.0));
        let at_first = chance.random_range(1..=3);
        let mut events = Vec::new();
        for _job in 0..chance.random_range(1..=3) {
            events.push((moment(&mut chance, 0.5), Happening::Submit(job(&mut chance))));
        }
        for _fault in 0..chance.random_range(1..=6) {
            events.extend(fault(&mut chance));
        }
        if chance.random_bool(0.2) {
            let which = chance.random_range(0..3);
            events.push((moment(&mut chance, 1.0), Happening::Cancel(which)));
        }
        if kept == Kept::OnDisk {
            for _crash in 0..chance.random_range(1..=3) {
                events.push((moment(&mut chance, 1.0), Happening::Crash(crash(&mut chance))));
            }
            let which = chance.random_range(0..3);
            events.push((moment(&mut chance, 1.0), Happening::SubmitAgain(which)));
        }
        events.sort_by_key(|(when, _)| *when);
        Self { seed, kept, rates, at_first, events }
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

fn crash(chance: &mut StdRng) -> Crash {
    Crash {
        death: if chance.random() { Death::Killed } else { Death::PowerCut },
        // A commit takes some ten writes and two syncs, a step of a job one commit.
        in_write: chance.random_bool(0.6).then(|| chance.random_range(0..60)),
        down_for: moment(chance, 0.3),
    }
}

fn fault(chance: &mut StdRng) -> Vec<(Duration, Happening)> {
    let when = moment(chance, 1.0);
    let worker = chance.random_range(0..WORKERS.len());
    let later = when + moment(chance, 0.5);
    match chance.random_range(0..16) {
        0 | 1 => vec![(when, Happening::Join(worker))],
        2 => vec![(when, Happening::Leave(worker))],
        3 => vec![(when, Happening::Leave(worker)), (later, Happening::Join(worker))],
        4 => vec![(when, Happening::Vanish(worker))],
        5 => vec![(when, Happening::Vanish(worker)), (later, Happening::Join(worker))],
        6 => vec![(when, Happening::Hang(worker, moment(chance, 1.0)))],
        7 => vec![(when, Happening::Drain(worker))],
        8 => vec![(when, Happening::Drain(worker)), (later, Happening::Join(worker))],
        9 => vec![(when, Happening::PowerCut(worker))],
        10 => vec![(when, Happening::PowerCut(worker)), (later, Happening::Join(worker))],
        11 | 12 => partition(chance, when, later),
        _ => link_fault(chance, worker, when, later),
    }
}

/// Some processes hear nothing of the others for a while, or are not heard by them, or both.
fn partition(chance: &mut StdRng, when: Duration, later: Duration) -> Vec<(Duration, Happening)> {
    let all = std::iter::once(Process::Coordinator).chain((0..WORKERS.len()).map(Process::Worker));
    let (here, there): (Vec<Process>, Vec<Process>) = all.partition(|_| chance.random_bool(0.4));
    let pairs = here.iter().flat_map(|from| there.iter().map(move |to| (*from, *to)));
    let ways = chance.random_range(0..3);
    let ways = pairs.flat_map(|(from, to)| match ways {
        0 => vec![(from, to)],
        1 => vec![(to, from)],
        _ => vec![(from, to), (to, from)],
    });
    for_a_while(ways, LinkState::Cut, when, later)
}

fn for_a_while(
    ways: impl IntoIterator<Item = (Process, Process)>,
    state: LinkState,
    when: Duration,
    later: Duration,
) -> Vec<(Duration, Happening)> {
    let changes = ways.into_iter().flat_map(|(from, to)| {
        let change = |state| Happening::Link { from, to, state };
        [(when, change(state)), (later, change(LinkState::Healed))]
    });
    changes.collect()
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
            jitter: Duration::from_millis(chance.random_range(0..300)),
        }
    };
    let mut ways = vec![(Process::Worker(worker), other), (other, Process::Worker(worker))];
    // One way or the other, or both.
    match chance.random_range(0..3) {
        0 => drop(ways.pop()),
        1 => drop(ways.remove(0)),
        _ => {}
    }
    for_a_while(ways, state, when, later)
}
