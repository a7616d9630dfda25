//! A case with its weights: what is run and timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use asyncdiff_model::component::{Component, constant_values, evaluate_step};
use asyncdiff_model::families::{DenoiserConfig, DenoiserProgram, DenoiserShape, build};
use asyncdiff_model::formula;
use asyncdiff_model::kernels::{Computed, Kernels, Prepared, Value};
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_model::vae::{VaeConfig, VaeDecoder};
use asyncdiff_plan::{InputKind, LayerId, WeightSpec};
use candle_core::{Device, Tensor};

use super::case::{Case, CaseConfig};
use super::kinds::NodeTime;
use super::weights::RepeatedWeights;
use crate::bench::median::median;

/// Rows of the batch of UNet and text encoder: the two halves of guidance.
const ROWS: usize = 2;

/// Tokens of a prompt.
const TOKENS: usize = 77;

/// Side of the latents of a picture of 512 × 512 pixels.
const LATENTS_512: usize = 64;

/// Any but the first and the last.
const TIMESTEP: f32 = 500.0;

/// Profiled runs at least and at most.
const PROFILES: [usize; 2] = [1, 50];

/// A case, loaded.
pub(in crate::bench) struct Subject {
    pub(super) model: Model,
    /// By the definition of its layers, of all rows, in one run.
    pub(in crate::bench) flops: f64,
    /// Parameters as they are held.
    pub(in crate::bench) resident_bytes: u64,
    /// Parameters as plain f32.
    pub(super) plain_bytes: u64,
    /// What is computed once per job and not in each run.
    pub(in crate::bench) once_per_job: Option<Duration>,
}

pub(super) enum Model {
    Denoiser { component: Box<Component>, ops: DenoiserProgram, inputs: Vec<Value>, constants: Vec<Option<Value>> },
    TextEncoder { encoder: Box<ClipTextEncoder>, tokens: Vec<Vec<u32>>, embedded: Value },
    VaeDecoder { decoder: Box<VaeDecoder>, latents: Tensor, input: Value },
}

/// What was computed in a layer, if it is a denoiser's, and how long it took.
type Observation = (Option<LayerId>, Computed, Duration);

impl Subject {
    pub(super) fn load(case: Case, kernels: &Kernels) -> anyhow::Result<Self> {
        match case.config()? {
            CaseConfig::Denoiser(config) => Self::denoiser(&config, kernels),
            CaseConfig::TextEncoder(config) => Self::text_encoder(&config, kernels),
            CaseConfig::VaeDecoder(config) => Self::vae_decoder(&config, kernels),
        }
    }

    /// A denoiser at its own size.
    pub(in crate::bench) fn denoiser(config: &DenoiserConfig, kernels: &Kernels) -> anyhow::Result<Self> {
        let [height, width] = config.sample_size().context("the configuration has no sample_size")?;
        let ops = build(config, &DenoiserShape { height, width, tokens: TOKENS as u32 })?;
        let program = Arc::clone(&ops.program);
        let owned: Vec<LayerId> = program.owned_layers().map(|(layer, _)| layer).collect();
        let component = Box::new(Component::load(&ops, &owned, &RepeatedWeights::new(), kernels)?);
        let inputs = program.inputs.iter().map(|input| match input.kind {
            InputKind::Timestep => kernels.value(&[1], &[TIMESTEP]),
            InputKind::Condition(_) | InputKind::Latents => {
                let axes = input.value.shape.iter().map(|&axis| axis as usize);
                noise(kernels, &std::iter::once(ROWS).chain(axes).collect::<Vec<_>>())
            }
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        constant_values(&component, &inputs)?;
        // A GPU computes in the background; on a CPU this does nothing.
        kernels.synchronize()?;
        let start = Instant::now();
        let constants = constant_values(&component, &inputs)?;
        kernels.synchronize()?;
        let once_per_job = Some(start.elapsed());
        let in_step = program.layers().filter(|&(layer, _)| !program.is_constant(layer));
        Ok(Self {
            flops: ROWS as f64 * in_step.map(|(_, layer)| layer.flops as f64).sum::<f64>(),
            resident_bytes: component.resident_bytes(),
            plain_bytes: plain_bytes(program.layers.iter().flat_map(|layer| &layer.weights)),
            once_per_job,
            model: Model::Denoiser { component, ops, inputs, constants },
        })
    }

    fn text_encoder(config: &ClipTextConfig, kernels: &Kernels) -> anyhow::Result<Self> {
        let encoder = Box::new(ClipTextEncoder::new(config, TOKENS, &RepeatedWeights::new(), kernels)?);
        let embedded = noise(kernels, &[ROWS, TOKENS, config.width])?;
        // Any ids: each is one row of the table.
        let tokens = (0..ROWS).map(|row| (0..TOKENS).map(|token| (97 * (row * TOKENS + token)) as u32).collect());
        Ok(Self {
            flops: graph_flops(encoder.layers(), ROWS),
            resident_bytes: encoder.resident_bytes(),
            plain_bytes: plain_bytes(&config.weight_specs()),
            once_per_job: None,
            model: Model::TextEncoder { tokens: tokens.collect(), embedded, encoder },
        })
    }

    fn vae_decoder(config: &VaeConfig, kernels: &Kernels) -> anyhow::Result<Self> {
        let size = [LATENTS_512; 2];
        let decoder = Box::new(VaeDecoder::new(config, size, &RepeatedWeights::new(), kernels)?);
        let shape = [1, config.latent_channels, LATENTS_512, LATENTS_512];
        let latents = Tensor::from_vec(formula::input("latents", &shape, 1), &shape, &Device::Cpu)?;
        Ok(Self {
            flops: graph_flops(decoder.prepared(), 1),
            resident_bytes: decoder.prepared().resident_bytes(),
            plain_bytes: plain_bytes(&config.decoder_weight_specs()),
            once_per_job: None,
            model: Model::VaeDecoder { input: kernels.value_of(&latents)?, latents, decoder },
        })
    }

    /// Computes it once, as the product does.
    pub(in crate::bench) fn run(&self) -> anyhow::Result<()> {
        match &self.model {
            Model::Denoiser { component, inputs, constants, .. } => {
                evaluate_step(component, inputs, constants, &mut |_, _| ())?;
            }
            Model::TextEncoder { encoder, tokens, .. } => drop(encoder.encode(tokens)?),
            Model::VaeDecoder { decoder, latents, .. } => drop(decoder.decode(latents)?),
        }
        Ok(())
    }

    /// How long each node of its graphs takes where it runs: medians over as many runs as fit into the time.
    pub(super) fn profile(&self, time: Duration) -> anyhow::Result<Vec<NodeTime>> {
        let [least, most] = PROFILES;
        let (begin, mut runs) = (Instant::now(), Vec::new());
        while runs.len() < least || (runs.len() < most && begin.elapsed() < time) {
            runs.push(self.observe()?);
        }
        let node = |index: usize| {
            let (layer, computed, _) = runs[0][index];
            let seconds = runs.iter().map(|run| run[index].2.as_secs_f64()).collect();
            self.node_time(layer, computed, median(seconds).unwrap_or_default())
        };
        (0..runs[0].len()).map(node).collect()
    }

    fn observe(&self) -> anyhow::Result<Vec<Observation>> {
        let (mut last, mut observed) = (Instant::now(), Vec::new());
        let mut note = |layer, computed| {
            let now = Instant::now();
            observed.push((layer, computed, now.duration_since(last)));
            last = now;
        };
        match &self.model {
            Model::Denoiser { component, inputs, constants, .. } => {
                evaluate_step(component, inputs, constants, &mut |layer, computed| note(Some(layer), computed))?;
            }
            Model::TextEncoder { encoder, embedded, .. } => {
                encoder.layers().run_watched(&[embedded], None, &mut |computed| note(None, computed))?;
            }
            Model::VaeDecoder { decoder, input, .. } => {
                decoder.prepared().run_watched(&[input], None, &mut |computed| note(None, computed))?;
            }
        }
        Ok(observed)
    }

    fn node_time(&self, layer: Option<LayerId>, computed: Computed, seconds: f64) -> anyhow::Result<NodeTime> {
        let Computed { node, rows } = computed;
        let prepared = match (&self.model, layer) {
            (Model::Denoiser { component, .. }, Some(layer)) => component.prepared(layer),
            (Model::TextEncoder { encoder, .. }, _) => Some(encoder.layers()),
            (Model::VaeDecoder { decoder, .. }, _) => Some(decoder.prepared()),
            (Model::Denoiser { .. }, None) => None,
        };
        let prepared = prepared.context("a layer was timed that is not in the component")?;
        let cost = prepared.graph().cost(node);
        let layer = match (&self.model, layer) {
            (Model::Denoiser { ops, .. }, Some(layer)) => Some(ops.op(layer).kind()),
            _ => None,
        };
        Ok(NodeTime {
            layer,
            operation: prepared.kernel_name(node),
            seconds,
            flops: (rows as u64 * cost.flops) as f64,
            bytes: (rows as u64 * cost.activations * size_of::<f32>() as u64) as f64,
        })
    }
}

fn noise(kernels: &Kernels, shape: &[usize]) -> Result<Value, asyncdiff_model::ModelError> {
    kernels.value(shape, &formula::input("latents", shape, 1))
}

fn plain_bytes<'a>(weights: impl IntoIterator<Item = &'a WeightSpec>) -> u64 {
    let elements: u64 = weights.into_iter().map(WeightSpec::elements).sum();
    elements * size_of::<f32>() as u64
}

fn graph_flops(prepared: &Prepared, rows: usize) -> f64 {
    let nodes = 0..prepared.graph().nodes().len();
    rows as f64 * nodes.map(|node| prepared.graph().cost(node).flops as f64).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_a_step_have_the_operations_that_the_program_counts() {
        let subject = Subject::load(Case::UnetBench, &Kernels::for_device(&Device::Cpu)).unwrap();
        let nodes = subject.profile(Duration::ZERO).unwrap();
        let flops: f64 = nodes.iter().map(|node| node.flops).sum();
        // The time embedding and its projections have one row for both halves.
        assert!((flops / subject.flops - 1.0).abs() < 1e-3, "{flops} of {}", subject.flops);
        assert!(nodes.iter().all(|node| node.layer != Some("cross attention context")), "it is constant during a job");
    }
}
