//! Whole clusters under random faults: workers join, leave, are drained, vanish, come back under their names, hang; links are cut, one way or both, and
//! slow; meanwhile jobs are submitted.
//!
//! - Safety: a job's latents have the bits of the plans that were in force: those of the same job made in one thread and planned anew where its record
//!   says that it was. A missing, foreign, old or damaged value anywhere would show.
//! - Liveness: once all faults are healed, every job ends in time, once, with its latents.
//!
//! Time is simulated, and everything comes from a seed. `cargo test` plays some hundred; others are named in the environment, and a seed that once
//! failed is kept below as a test of its own:
//!
//! ```text
//! ASYNCDIFF_SEEDS=0..100000 cargo test --release -p asyncdiff-coordinator --test cluster chaos::
//! ```

mod story;
mod world;

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use story::Story;

/// Seeds that are played if none are named: as many as take a minute or two on two cores.
const SEEDS: Range<u64> = 0..500;

/// The variable that names others: `first..end`.
const SEEDS_VARIABLE: &str = "ASYNCDIFF_SEEDS";

/// Failures that are told of before it ends: one is enough to begin with.
const FAILURES_TOLD: usize = 5;

#[test]
fn every_job_ends_with_what_its_plans_say_whatever_happens() {
    let seeds = seeds();
    let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _thread in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failures.lock().unwrap().len() >= FAILURES_TOLD {
                        return;
                    }
                    if let Err(failure) = played(seed) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

fn seeds() -> Range<u64> {
    let Ok(named) = std::env::var(SEEDS_VARIABLE) else { return SEEDS };
    let parsed = named.split_once("..").and_then(|(first, end)| Some(first.parse().ok()?..end.parse().ok()?));
    parsed.unwrap_or_else(|| panic!("{SEEDS_VARIABLE} is to be like 0..1000, not {named:?}"))
}

/// Plays one story; an error tells it.
fn played(seed: u64) -> Result<(), String> {
    let story = Story::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(world::play(&story)).map_err(|failure| format!("seed {seed}: {failure}\n{story:#?}"))
}
