//! A dry run as the API shows it.

use asyncdiff_plan::{ComponentId, Partition, Program, draw};

use super::{ComponentView, EdgeView, PlanView};
use crate::cluster::PlannedJob;

/// Bytes of a parameter as it is computed with.
const PARAMETER_BYTES: u64 = 4;

pub(super) fn plan_view(planned: &PlannedJob) -> PlanView {
    let PlannedJob { choice, program, workers } = planned;
    let (plan, prediction) = (&choice.placed.plan, &choice.prediction);
    let total: u64 = program.owned_layers().map(|(_, layer)| layer.flops).sum();
    let component = |id| component_view(program, &plan.partition, id, total);
    let edges = prediction.edges.iter().map(|edge| EdgeView {
        from: edge.from.to_string(),
        to: edge.to.to_string(),
        bytes_per_step: edge.bytes_per_step,
    });
    PlanView {
        reason: choice.reason.clone(),
        notes: choice.notes.clone(),
        components: plan.partition.component_ids().map(component).collect(),
        workers: workers.clone(),
        steps: plan.schedule.steps.get(),
        stride: plan.schedule.stride.get(),
        warm_up: plan.schedule.warm_up_steps(),
        predicted_seconds: prediction.seconds,
        alone_seconds: prediction.alone_seconds,
        bytes_per_step: prediction.bytes_per_step,
        edges: edges.collect(),
        idle: prediction.busy.iter().map(|busy| (1.0 - busy).max(0.0)).collect(),
        drawing: draw(&choice.placed, prediction),
    }
}

fn component_view(program: &Program, partition: &Partition, id: ComponentId, total_flops: u64) -> ComponentView {
    let layers: Vec<_> = partition.owned_by(id).into_iter().map(|layer| program.layer(layer)).collect();
    let flops: u64 = layers.iter().map(|layer| layer.flops).sum();
    let elements: u64 = layers.iter().flat_map(|layer| &layer.weights).map(|weight| weight.elements()).sum();
    ComponentView {
        layers: layers.iter().map(|layer| layer.name.clone()).collect(),
        share: flops as f64 / total_flops.max(1) as f64,
        parameter_bytes: elements * PARAMETER_BYTES,
    }
}
