//! What each component is made of: its layers and their parameters.

use std::collections::HashMap;

use asyncdiff_common::wire::{Assignment, DType, DenoiserSpec, WeightEntry, WorkerFailure};
use asyncdiff_model::component::layer_memory;
use asyncdiff_model::families::DenoiserProgram;
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::{ComponentId, LayerId, Program};

/// By which a loaded component is recognised when the next job wants the same: equal keys make equal components.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ComponentKey {
    denoiser: DenoiserSpec,
    layers: Vec<LayerId>,
    /// BLAKE3 over the names and digests of the parameters.
    parameters: [u8; 32],
}

/// One component of an assignment.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) component: ComponentId,
    pub(crate) layers: Vec<LayerId>,
    pub(crate) key: ComponentKey,
    /// The parameters of its layers and of the shared layers that they need.
    pub(crate) parameters: Vec<WeightEntry>,
    /// Bytes that they take when loaded.
    pub(crate) loaded_bytes: u64,
}

/// The components of an assignment; every parameter of theirs must be listed, in the shape that the program says.
pub(super) fn parts(
    assignment: &Assignment,
    program: &DenoiserProgram,
    kernels: &Kernels,
) -> Result<Vec<Part>, WorkerFailure> {
    let listed: HashMap<&str, &WeightEntry> =
        assignment.weights.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let part = |(component, layers): &(ComponentId, Vec<LayerId>)| {
        let parameters = parameters(&program.program, layers, &listed)?;
        Ok(Part {
            component: *component,
            layers: layers.clone(),
            key: key(&assignment.denoiser, layers, &parameters),
            loaded_bytes: loaded_bytes(program, layers, kernels),
            parameters,
        })
    };
    assignment.plan.components.iter().map(part).collect()
}

fn parameters(
    program: &Program,
    layers: &[LayerId],
    listed: &HashMap<&str, &WeightEntry>,
) -> Result<Vec<WeightEntry>, WorkerFailure> {
    let mut parameters = Vec::new();
    for layer in program.with_shared(layers) {
        for spec in &program.layer(layer).weights {
            let bad = |reason: String| WorkerFailure::BadWeight { name: spec.name.clone(), reason };
            let entry = listed.get(spec.name.as_str()).ok_or_else(|| {
                bad(format!("layer {} needs it and the assignment does not list it", program.layer(layer).name))
            })?;
            if without_last_ones(&entry.shape) != without_last_ones(&spec.shape) {
                return Err(bad(format!("its shape is {:?} and config.json says {:?}", entry.shape, spec.shape)));
            }
            if matches!(entry.dtype, DType::I64 | DType::U8) {
                return Err(bad(format!("its elements are {:?} and floats are needed", entry.dtype)));
            }
            parameters.push((*entry).clone());
        }
    }
    Ok(parameters)
}

/// Old checkpoints hold some linear layers as 1×1 convolutions: axes of length 1 at the end do not count.
fn without_last_ones(shape: &[u32]) -> &[u32] {
    let used = shape.iter().rposition(|&axis| axis != 1).map_or(0, |last| last + 1);
    &shape[..used]
}

/// As kernels hold them: whatever type is stored.
fn loaded_bytes(program: &DenoiserProgram, layers: &[LayerId], kernels: &Kernels) -> u64 {
    let layers = program.program.with_shared(layers).into_iter();
    layers.map(|layer| layer_memory(program, kernels, 1, layer).resident_bytes).sum()
}

fn key(denoiser: &DenoiserSpec, layers: &[LayerId], parameters: &[WeightEntry]) -> ComponentKey {
    let mut hasher = blake3::Hasher::new();
    for entry in parameters {
        hasher.update(&(entry.name.len() as u64).to_le_bytes()).update(entry.name.as_bytes()).update(&entry.digest);
    }
    let parameters = *hasher.finalize().as_bytes();
    ComponentKey { denoiser: denoiser.clone(), layers: layers.to_vec(), parameters }
}
