//! One queue of one direction: frames go in, are held as long as the faults say, and come out.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Faults;
use crate::link::{Core, Delivery, Pump};

/// Frames that one stage may hold: a queue's worth, so that the outer link's queue fills up as a real one does.
const HELD_FRAMES: usize = 64;

/// Which faults apply to a stage's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ordering {
    /// Control frames: in order, not slowed.
    Kept,
    /// Tensors: each on its own.
    Loose,
}

pub(super) struct Stage {
    pub(super) ordering: Ordering,
    pub(super) faults: watch::Receiver<Faults>,
    pub(super) chance: ChaCha8Rng,
}

/// When the way is free again, and what is on it.
struct Way<T> {
    free_at: Instant,
    last_due: Instant,
    next_number: u64,
    held: BinaryHeap<Reverse<Held<T>>>,
}

struct Held<T> {
    due: Instant,
    number: u64,
    frame: T,
}

impl Stage {
    /// Runs until the queue's link has closed and, if it closed in peace, until all frames are through.
    pub(super) async fn run<T>(
        mut self,
        core: &Core,
        mut queue: mpsc::Receiver<T>,
        size: impl Fn(&T) -> usize,
        onward: &mut impl Pump<T>,
    ) {
        let now = Instant::now();
        let mut way = Way { free_at: now, last_due: now, next_number: 0, held: BinaryHeap::new() };
        let mut is_open = true;
        while is_open || !way.held.is_empty() {
            let is_cut = self.faults.borrow_and_update().cut;
            let due = way.held.peek().filter(|_| !is_cut).map(|Reverse(held)| held.due);
            tokio::select! {
                frame = queue.recv(), if is_open && way.held.len() < HELD_FRAMES => match frame {
                    Some(frame) => self.hold(&mut way, size(&frame), frame),
                    None => is_open = false,
                },
                () = at(due) => {
                    let Some(Reverse(held)) = way.held.pop() else { continue };
                    if onward.pass(held.frame).await == Delivery::Stopped {
                        return;
                    }
                }
                _ = core.closed(), if is_open && !queue.is_closed() => queue.close(),
                () = changed(&mut self.faults) => {}
            }
        }
    }

    fn hold<T>(&mut self, way: &mut Way<T>, bytes: usize, frame: T) {
        let faults = self.faults.borrow().clone();
        let now = Instant::now();
        let due = match self.ordering {
            Ordering::Kept => (now + faults.delay).max(way.last_due),
            Ordering::Loose => {
                let rate = faults.bytes_per_second;
                let takes =
                    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.get() as f64));
                way.free_at = way.free_at.max(now) + takes;
                way.free_at + faults.delay + faults.jitter.mul_f64(self.chance.random::<f64>())
            }
        };
        way.last_due = due;
        way.held.push(Reverse(Held { due, number: way.next_number, frame }));
        way.next_number += 1;
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of the faults; for ever once nobody can change them any more.
async fn changed(faults: &mut watch::Receiver<Faults>) {
    if faults.changed().await.is_err() {
        std::future::pending().await
    }
}

impl<T> PartialEq for Held<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.number) == (other.due, other.number)
    }
}

impl<T> Eq for Held<T> {}

impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Held<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}
