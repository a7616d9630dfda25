//! What each layer of a denoiser takes, computed several times in a row between two waits for the device: a GPU that is asked how it goes after each
//! launch would be timed for the asking.

use std::time::Instant;

use anyhow::bail;
use asyncdiff_model::families::LayerOp;
use asyncdiff_model::kernels::Value;
use asyncdiff_plan::Operand;

use super::subject::{Model, Subject};

/// What a layer does, as far as it matters for its speed.
pub(in crate::bench) type LayerKind = &'static str;

/// A layer of a step.
pub(in crate::bench) struct LayerTime {
    pub(in crate::bench) kind: LayerKind,
    /// Of one run.
    pub(in crate::bench) seconds: f64,
    /// By definition, of all rows.
    pub(in crate::bench) flops: f64,
}

impl Subject {
    /// Computes a denoiser's step layer by layer, each one as often as is said after a run that is not counted.
    pub(in crate::bench) fn layer_times(&self, runs: u32) -> anyhow::Result<Vec<LayerTime>> {
        let Model::Denoiser { component, ops, inputs, constants } = &self.model else {
            bail!("only a denoiser has layers")
        };
        let (program, kernels) = (component.program(), component.kernels());
        let mut values = constants.clone();
        let mut times = Vec::new();
        for (layer, described) in program.layers().filter(|&(layer, _)| !program.is_constant(layer)) {
            let operand = |&read: &Operand| match read {
                Operand::Input(input) => inputs.get(input.index()),
                Operand::Value(value) => values.get(value.index())?.as_ref(),
            };
            let Some(operands) = described.reads.iter().map(operand).collect::<Option<Vec<&Value>>>() else {
                bail!("{} reads what no layer before it wrote", described.name)
            };
            let written = component.run_layer(layer, &operands)?;
            kernels.synchronize()?;
            let start = Instant::now();
            for _ in 0..runs {
                component.run_layer(layer, &operands)?;
            }
            kernels.synchronize()?;
            let seconds = start.elapsed().as_secs_f64() / f64::from(runs);
            let rows = operands.iter().map(|value| value.rows()).max().unwrap_or_default();
            times.push(LayerTime { kind: kind(ops.op(layer)), seconds, flops: (rows as u64 * described.flops) as f64 });
            values[layer.index()] = Some(written);
        }
        Ok(times)
    }
}

/// Finer than [`LayerOp::kind`]: the layers of a transformer have little in common.
fn kind(op: &LayerOp) -> LayerKind {
    match op {
        LayerOp::CrossAttention(_) => "cross attention",
        LayerOp::FeedForward(_) => "feed-forward",
        LayerOp::ProjectIn(_) | LayerOp::ProjectOut(_) => "projection",
        LayerOp::SelfAttention(_) => "self attention",
        other => other.kind(),
    }
}
