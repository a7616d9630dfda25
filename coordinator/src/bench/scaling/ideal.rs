//! What a plan allows at best, from the plan alone.

use std::sync::Arc;
use std::time::Instant;

use asyncdiff_plan::{
    Choice, Costs, Device, Lane, LayerMemory, LayerSeconds, PlacedPlan, PolicyError, Prediction, Program, Rank,
    Situation, StepIndex, Wishes, choose, predict,
};
use std::num::NonZeroU32;

use super::model::ROWS;
use super::network::Network;

/// Times are predicted this many times slower, links too: what predictions say that encoding takes of this machine's cores is then nothing beside the
/// devices' time, as it is where a device encodes while it computes.
const PREDICTED_DILATION: f64 = 1000.0;

/// A device's speed for a program.
#[derive(Clone)]
pub(super) struct Pace {
    pub(super) program: Arc<Program>,
    /// Undilated.
    pub(super) flops_per_second: f64,
}

/// What a plan allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ideal {
    /// 1 / (w/T + (1 - w/T) · share / S), with the largest part of a step's work that one device has after the warm-up.
    pub(super) formula: f64,
    /// The plan run on a clock, with nothing in its way but the devices' time and the links' rate and delay.
    pub(super) with_links: f64,
    /// Seconds of the denoising loop at that.
    pub(super) seconds: f64,
}

impl Pace {
    /// The planner's choice for so many equal devices.
    pub(super) fn plan(
        &self,
        wishes: &Wishes,
        steps: NonZeroU32,
        devices: usize,
        network: Network,
    ) -> Result<Choice, PolicyError> {
        let (whole, half) = self.layer_seconds();
        let layer_memory = vec![LayerMemory::default(); self.program.layers.len()];
        let situation = Situation {
            program: &self.program,
            steps,
            first: StepIndex(0),
            guidance_on: true,
            rows: ROWS,
            layer_seconds: LayerSeconds { whole: &whole, half: &half },
            layer_memory: &layer_memory,
            devices: &vec![Device { speed: 1.0, memory_bytes: u64::MAX }; devices],
            links: &network.planned_links(),
            turnaround_seconds: 0.0,
            now: Instant::now(),
        };
        choose(wishes, &situation)
    }

    pub(super) fn ideal(&self, placed: &PlacedPlan, network: Network) -> Ideal {
        let prediction = self.predict(placed, network);
        let with_links = prediction.speed_up();
        Ideal { formula: self.formula(placed), with_links, seconds: prediction.seconds / PREDICTED_DILATION }
    }

    fn predict(&self, placed: &PlacedPlan, network: Network) -> Prediction {
        let (whole, half) = self.layer_seconds();
        let slower = |seconds: Vec<f64>| seconds.into_iter().map(|time| time * PREDICTED_DILATION).collect::<Vec<_>>();
        let (whole, half) = (slower(whole), slower(half));
        let costs = Costs {
            layer_seconds: LayerSeconds { whole: &whole, half: &half },
            speeds: &vec![1.0; usize::from(placed.world_size)],
            links: &network.ideal_links(PREDICTED_DILATION),
            turnaround_seconds: 0.0,
            rows: ROWS,
        };
        predict(&self.program, placed, &costs, Instant::now())
    }

    fn formula(&self, placed: &PlacedPlan) -> f64 {
        let schedule = &placed.plan.schedule;
        let (steps, warm_up) = (f64::from(schedule.steps.get()), f64::from(schedule.warm_up_steps()));
        let lanes = schedule.lanes().len().min(placed.world_size.into()) as f64;
        steps / (warm_up / lanes + (steps - warm_up) * self.largest_share(placed))
    }

    /// The largest part of a step's work that one device has after the warm-up: the largest component's share divided by the stride.
    fn largest_share(&self, placed: &PlacedPlan) -> f64 {
        let (whole, _) = self.layer_seconds();
        let by_component = placed.plan.partition.component_costs(&whole);
        let mut by_rank = vec![0.0; usize::from(placed.world_size)];
        let warm_up = placed.plan.schedule.warm_up_steps();
        for run in placed.plan.runs.iter().filter(|run| run.id.step.0 >= warm_up) {
            let part = if run.id.lane == Lane::Whole { 1.0 } else { 0.5 };
            let Rank(rank) = placed.rank_of(run);
            by_rank[usize::from(rank)] += by_component[run.id.component.index()] * part;
        }
        let rest = f64::from(placed.plan.schedule.steps.get() - warm_up).max(1.0);
        by_rank.into_iter().fold(0.0, f64::max) / by_component.iter().sum::<f64>() / rest
    }

    /// Of the whole batch and of one half.
    fn layer_seconds(&self) -> (Vec<f64>, Vec<f64>) {
        let seconds = |rows: f64| {
            self.program.layers.iter().map(|layer| layer.flops as f64 * rows / self.flops_per_second).collect()
        };
        (seconds(f64::from(ROWS)), seconds(f64::from(ROWS) / 2.0))
    }
}
