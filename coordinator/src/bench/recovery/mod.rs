//! `bench recovery`: what happens to a job when the worker of its last component is killed, stopped or drained, and when another one joins.
//!
//! ```text
//!   for each repeat and kind of fault: a cluster of its own ─► an undisturbed job ─► the same job with the fault ─┐
//!                                                                  Seen: when which step was finished ◄───────────┤
//!                                                                  Outcome: times, PSNR ◄── Timeline ◄────────────┘
//!                                                                     └──► FaultReport by kind: JSON, Markdown
//! ```
//!
//! Workers are processes that the coordinator did not start, as with `worker join`: nobody tells it that one has ended.

mod disturbed;
mod fault;
mod place;
mod report;
mod timeline;

use std::num::NonZeroU32;

use asyncdiff_model::kernels::DeviceSet;

pub(super) use fault::Signaller;
pub(super) use place::{settle, start_workers};
pub use report::RecoveryReport;

use self::fault::Fault;
use self::place::Place;
use self::report::FaultReport;
use super::hardware::hardware;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct RecoveryBench {
    /// Jobs with each kind of fault.
    pub repeats: NonZeroU32,
    /// Denoising steps of each job; where somebody joins there are more.
    pub steps: NonZeroU32,
    /// What the workers compute on.
    pub device: DeviceSet,
}

impl RecoveryBench {
    /// Measures one kind of fault after the other, and again, so that a machine that slows down slows all of them.
    pub async fn run(&self, on_progress: &mut (dyn FnMut(String) + Send)) -> anyhow::Result<RecoveryReport> {
        let mut outcomes = Fault::ALL.map(|fault| (fault, Vec::new()));
        let repeats = self.repeats.get();
        for repeat in 0..repeats {
            for (fault, outcomes) in &mut outcomes {
                let place = Place::start(*fault, self.steps, self.device).await?;
                let moment = fault::Moment { repeat, repeats };
                let measured = disturbed::measure(&place, *fault, moment).await;
                place.end().await;
                let outcome = measured?;
                on_progress(format!("{}/{repeats} {}: {}", repeat + 1, fault.name(), outcome.line()));
                outcomes.push(outcome);
            }
        }
        Ok(RecoveryReport {
            hardware: hardware(),
            version: env!("CARGO_PKG_VERSION"),
            faults: outcomes
                .iter()
                .map(|(fault, of)| FaultReport::new(*fault, fault.steps(self.steps).get(), of))
                .collect(),
        })
    }
}
