//! Whole clusters under random faults: workers join, leave, are drained, vanish, lose their power, come back under their names, hang; links are cut, one way
//! or both, and slow, between two processes or whole groups of them; the coordinator is killed or loses its power, at any moment and in the middle of any
//! write, and is started again; meanwhile jobs are submitted, submitted again, and cancelled.
//!
//! - Safety: a job's latents, or its picture, have the bits of the plans that were in force: those of the same job made in one thread and planned anew where
//!   its record says that it was. A missing, foreign, old or damaged value anywhere would show. What a client was told stays true over all lives of the
//!   coordinator: a job that was answered for is there, a key is one job, an end stays what it was and keeps its picture. No epoch of a job is in two
//!   lives, and no noise prediction is taken in an older epoch than one before it.
//! - Liveness: once all faults are healed, every job ends in time, once, with its latents or its picture.
//! - Bounds: the queue's and the inboxes' own checks are on in debug builds, and the database stays small.
//!
//! Time is simulated, and everything comes from a seed. `cargo test` plays some hundred; others are named in the environment, and a seed that once
//! failed is kept below as a test of its own:
//!
//! ```text
//! ASYNCDIFF_SEEDS=0..100000 cargo test --release -p asyncdiff-coordinator --test cluster chaos::
//! ```
//!
//! Time stands still while the database is written, and which of two things happens first at one instant is the operating system's choice there: a seed tells
//! the faults and when they come, and nearly everything that follows.
//!
//! Processes are joined by [`SimulatedNetwork`](asyncdiff_transport::network::SimulatedNetwork): links as actors see them (a control and a tensor channel,
//! admission, closing, loss), with faults of their own, and not by QUIC over turmoil's UDP. That would play quinn, its timers and TLS as well: what is theirs
//! to prove would take most of the time, and real threads of our transport (its own runtime, shared memory, the sockets that pass descriptors) do not follow a
//! simulated clock. Covered here is everything from a link upwards: sessions, heartbeats, placements, epochs, jobs on disk. Not covered is that links over QUIC
//! behave as these do (frames of a kind in order, none lost alone, a cut noticed), nor what is under them, such as a lost packet or a certificate that does not
//! fit. The first is what the conformance suite says of all kinds of links (`common/transport/src/conformance`); `tests/hosts` and `tests/cli` then do to real
//! processes on real sockets what is done here: cables are pulled, processes killed and stopped.

mod clients;
mod coordinator;
mod disk;
mod small_model;
mod story;
mod witness;
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

/// The only worker was lost four times while it decoded: the job failed, although it came back each time.
#[test]
fn a_picture_is_decoded_however_often_its_decoder_is_lost() {
    played(1578).unwrap();
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
    runtime.block_on(world::play(&story)).map_err(|failure| format!("seed {seed}: {failure}\n{story:?}"))
}
