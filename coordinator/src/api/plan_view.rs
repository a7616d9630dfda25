//! A dry run as the API shows it.

use std::collections::BTreeSet;

use asyncdiff_plan::{ComponentId, Rank, draw};

use super::{ComponentView, EdgeView, LinkView, PlanView};
use crate::cluster::PlannedJob;

/// Bytes of a parameter of single precision: what the parameters as they are held are compared with.
const PARAMETER_BYTES: u64 = 4;

pub(super) fn plan_view(planned: &PlannedJob) -> PlanView {
    let PlannedJob { choice, program, workers, compute, .. } = planned;
    let (plan, prediction) = (&choice.placed.plan, &choice.prediction);
    let total: u64 = program.owned_layers().map(|(_, layer)| layer.flops).sum();
    let component = |id| component_view(planned, id, total);
    let edges = prediction.edges.iter().map(|edge| EdgeView {
        from: edge.from.to_string(),
        to: edge.to.to_string(),
        encoding: edge.encoding,
        bytes_per_step: edge.bytes_per_step,
    });
    PlanView {
        reason: choice.reason.clone(),
        notes: choice.notes.clone(),
        components: plan.partition.component_ids().map(component).collect(),
        dtype: format!("{compute:?}").to_lowercase(),
        workers: workers.clone(),
        steps: plan.schedule.steps.get(),
        stride: plan.schedule.stride.get(),
        warm_up: plan.schedule.warm_up_steps(),
        predicted_seconds: prediction.seconds,
        alone_seconds: prediction.alone_seconds,
        bytes_per_step: prediction.bytes_per_step,
        edges: edges.collect(),
        links: link_views(planned),
        idle: prediction.busy.iter().map(|busy| (1.0 - busy).max(0.0)).collect(),
        drawing: draw(&choice.placed, prediction),
    }
}

/// Each link that has a transfer, once.
fn link_views(planned: &PlannedJob) -> Vec<LinkView> {
    let transfers = planned.choice.placed.transfers.iter();
    let used: BTreeSet<(Rank, Rank)> = transfers.map(|transfer| (transfer.from, transfer.to)).collect();
    let view = |(from, to): (Rank, Rank)| {
        let cost = planned.links.cost(Some(from), Some(to));
        LinkView {
            from: from.to_string(),
            to: to.to_string(),
            latency_seconds: cost.latency_seconds,
            bytes_per_second: cost.bytes_per_second,
            busy_seconds_per_byte: cost.busy_seconds_per_byte,
            busy_seconds_per_tensor: cost.busy_seconds_per_tensor,
        }
    };
    used.into_iter().map(view).collect()
}

fn component_view(planned: &PlannedJob, id: ComponentId, total_flops: u64) -> ComponentView {
    let (program, placed) = (&planned.program, &planned.choice.placed);
    let owned = placed.plan.partition.owned_by(id);
    let layers: Vec<_> = owned.iter().map(|&layer| program.layer(layer)).collect();
    let flops: u64 = layers.iter().map(|layer| layer.flops).sum();
    // What it needs of the shared layers is loaded with it.
    let loaded = program.with_shared(&owned);
    let weights = loaded.iter().flat_map(|&layer| &program.layer(layer).weights);
    let held = program.held_row_bytes(&owned);
    let rank = placed.plan.runs.iter().find(|run| run.id.component == id).map(|run| placed.rank_of(run).index());
    let costs =
        rank.and_then(|rank| planned.costs.get(rank)).map(|costs| loaded.iter().map(|layer| costs[layer.index()]));
    ComponentView {
        layers: layers.iter().map(|layer| layer.name.clone()).collect(),
        share: flops as f64 / total_flops.max(1) as f64,
        parameter_bytes: weights.map(|weight| weight.elements() * PARAMETER_BYTES).sum(),
        resident_bytes: costs.clone().into_iter().flatten().map(|cost| cost.resident_bytes).sum(),
        // Of a step, and as much of the step before.
        activation_bytes: costs.into_iter().flatten().map(|cost| cost.working_bytes).max().unwrap_or(0)
            + 2 * u64::from(planned.rows) * held,
    }
}
