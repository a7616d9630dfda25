//! Timing layers.

use asyncdiff_common::wire::{DenoiserSpec, WorkerFailure, WorkerReply};
use asyncdiff_plan::LayerId;

use super::{RequestResult, Tools};
use crate::assignment::build_program;

/// Rows that are measured at most, as many as a job may have.
const ROWS_MAX: u32 = 128;

/// What is to be measured.
pub(crate) struct MeasureLayers {
    pub(crate) denoiser: DenoiserSpec,
    pub(crate) rows: u32,
    pub(crate) layers: Vec<LayerId>,
}

pub(crate) async fn measure_layers(tools: Tools, order: MeasureLayers) -> RequestResult {
    let MeasureLayers { denoiser, rows, layers } = order;
    let program = build_program(&denoiser)?;
    let bad = |reason: String| WorkerFailure::BadAssignment { reason };
    if !(1..=ROWS_MAX).contains(&rows) {
        return Err(bad(format!("{rows} rows; 1 to {ROWS_MAX} are supported")));
    }
    if let Some(layer) = layers.iter().find(|layer| layer.index() >= program.program.layers.len()) {
        return Err(bad(format!("{layer} is to be measured, which the denoiser lacks")));
    }
    let layers = tools.device.measure((program, denoiser.compute), rows, layers).await?;
    Ok(WorkerReply::Measured { layers })
}
