//! `bench soak`: jobs for as long as is said, while workers are killed, stopped, drained and joined at random moments.
//!
//! ```text
//!   first jobs, undisturbed ──► memory ──► jobs, some at a time ──────────────────────► the last ones end ──► memory
//!                                          Churn (seed) ──► Members: kill, stop, drain, join ──┐
//!                                          in the middle: memory              SoakReport ◄─────┘
//! ```
//!
//! The coordinator is in this process. Workers are processes that it did not start, as with `worker join`.

mod churn;
mod jobs;
mod members;
mod report;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use asyncdiff_common::system::ResidentMemory;

pub use report::{JobsOfKind, Memory, SoakReport};

use self::churn::{Act, Churn};
use self::jobs::{Order, Seen};
use self::members::Members;
use super::hardware::hardware;
use super::jobs::{JOIN_WITHIN, STOP_WITHIN};
use super::likeness::pixels;
use super::model::BenchModel;
use super::recovery::settle;
use crate::actors::Limits;
use crate::job_spec::{JobSpec, Product};
use crate::local_cluster::{LocalCluster, LocalClusterConfig};

/// Workers at the beginning: a job has two parts, so a third one can take one over.
const WORKERS: usize = 3;

/// Jobs before anything happens: after them a process has allocated what jobs take.
const FIRST_JOBS: usize = 12;

/// Jobs at a time: one runs, or two side by side, and one waits.
const AT_A_TIME: usize = 3;

/// Denoising steps of a job: it takes a second or so.
const STEPS: NonZeroU32 = NonZeroU32::new(50).expect("50 is not zero");

/// Jobs that the coordinator remembers. They would be most of its memory, until there are as many as are kept.
const KEPT_JOBS: usize = 8;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct SoakBench {
    /// How long, without the first jobs.
    pub time: Duration,
    /// Decides what happens to whom after which time.
    pub seed: u64,
}

impl SoakBench {
    /// Makes jobs until the time is over.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<SoakReport> {
        let local = LocalCluster::start(LocalClusterConfig {
            limits: Limits { kept_jobs: KEPT_JOBS, ..Limits::default() },
            ..LocalClusterConfig::new(Arc::new(BenchModel::Demo.store()?), 0)
        })
        .await?;
        let members = Members::start(&local, WORKERS)?;
        local.cluster().wait_for_workers(WORKERS, JOIN_WITHIN).await?;
        let report = self.soak(&local, members, on_progress).await;
        local.shutdown(STOP_WITHIN).await;
        report
    }

    async fn soak(
        &self,
        local: &LocalCluster,
        mut members: Members,
        on_progress: &mut (dyn FnMut(String) + Send),
    ) -> anyhow::Result<SoakReport> {
        let (cluster, began, made) = (local.cluster(), Instant::now(), AtomicUsize::new(0));
        let order = order(local).await?;
        let kept = members.kept();
        let far = began + JOIN_WITHIN * 10;
        let all = (0..AT_A_TIME).map(|_| jobs::make((cluster, &order), far, FIRST_JOBS / AT_A_TIME, &made));
        let first: Vec<Seen> = futures_util::future::join_all(all).await.concat();
        if let Some(why) = first.iter().find_map(|seen| seen.picture.as_ref().err()) {
            bail!("a job that nothing disturbs failed: {why}");
        }
        let start = resident(kept)?;
        on_progress(format!("{} jobs in {:.0?}; now workers come and go", first.len(), began.elapsed()));
        let until = Instant::now() + self.time;
        let all = (0..AT_A_TIME).map(|_| jobs::make((cluster, &order), until, usize::MAX, &made));
        let all = futures_util::future::join_all(all);
        let middle = async {
            tokio::time::sleep(self.time / 2).await;
            resident(kept)
        };
        let churning = self.churn((local, &mut members), until, &made, on_progress);
        let (all, middle, faults) = tokio::join!(all, middle, churning);
        let (all, middle, faults, end) = (all.concat(), middle?, faults?, resident(kept)?);
        let mut counts = BTreeMap::new();
        for (_, kind) in &faults {
            *counts.entry(*kind).or_default() += 1;
        }
        let of =
            |process, place: usize| Memory { process, start: start[place], middle: middle[place], end: end[place] };
        Ok(SoakReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            seed: self.seed,
            minutes: began.elapsed().as_secs_f64() / 60.0,
            done: first.iter().chain(&all).filter(|seen| seen.picture.is_ok()).count(),
            lost: all.iter().filter_map(|seen| seen.picture.clone().err()).collect(),
            faults: counts,
            jobs: report::by_kind(&[first, all].concat(), &faults),
            memory: vec![of("coordinator", 0), of("the first worker", 1)],
        })
    }

    /// Does things to workers until the time is over, and leaves nobody standing still. Gives when which kind was done.
    async fn churn(
        &self,
        (local, members): (&LocalCluster, &mut Members),
        until: Instant,
        made: &AtomicUsize,
        on_progress: &mut (dyn FnMut(String) + Send),
    ) -> anyhow::Result<Vec<(Instant, &'static str)>> {
        let (mut churn, mut done) = (Churn::new(self.seed), Vec::new());
        let mut next = Instant::now() + churn.pause();
        while Instant::now() < until || members.next_to_carry_on().is_some() {
            let wake = members.next_to_carry_on().map_or(next, |at| if next < until { at.min(next) } else { at });
            tokio::time::sleep_until(wake.into()).await;
            members.carry_on(Instant::now()).await?;
            if Instant::now() < next || next >= until {
                continue;
            }
            let population = members.population();
            if let Some(act) = churn.act(&population) {
                done.push((Instant::now(), kind(act)));
                members.carry_out(act, local).await?;
                let workers = population.working.len();
                let made = made.load(Ordering::Relaxed);
                on_progress(format!("{made} jobs; {} of {workers} that work: {act:?}", kind(act)));
            }
            next = Instant::now() + churn.pause();
        }
        Ok(done)
    }
}

fn kind(act: Act) -> &'static str {
    match act {
        Act::Drain(_) => "drained",
        Act::Join => "joined",
        Act::Kill(_) => "killed",
        Act::Stop(..) => "stopped",
    }
}

/// The job, with what becomes of it if nothing happens.
async fn order(local: &LocalCluster) -> anyhow::Result<Order> {
    let settings = settle(local.cluster(), STEPS).await?;
    let spec = JobSpec { product: Product::Picture, ..BenchModel::Demo.job(settings) };
    let record = local.cluster().submit(spec.clone()).await?.ended().await?;
    if let Some(error) = record.error {
        bail!("the first job failed: {}\nhint: {}", error.message, error.hint);
    }
    Ok(Order { spec, pixels: pixels(local.cluster(), record.id).await? })
}

/// Resident memory of this process and of another one.
fn resident(other: u32) -> anyhow::Result<[u64; 2]> {
    let of = |process: u32| ResidentMemory::of_process(process).map(|memory| memory.bytes());
    let both = of(std::process::id()).zip(of(other));
    both.map(|(own, other)| [own, other]).context("the first worker's process has ended, or memory cannot be read here")
}
