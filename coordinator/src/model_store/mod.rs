//! The loaded checkpoint, as the coordinator needs it: programs, lists of parameters with digests, tokens, stored bytes
//! for workers.
//!
//! No parameter is ever converted or computed with here; files stay mapped and are read when a worker asks.

mod checked_job;
mod demo;
mod error;
mod part;
mod size;
mod text;

use std::sync::{Arc, Mutex, PoisonError};

use asyncdiff_common::wire::{ComputeType, DenoiserSpec, PartSpec, WeightEntry};
use asyncdiff_model::checkpoint::{Checkpoint, FormulaWeights, StoredTensor, Weights};
use asyncdiff_model::families::{self, DenoiserConfig, DenoiserProgram, DenoiserShape};
use asyncdiff_model::noise_scheduler::{SchedulerConfig, SchedulerKind};
use asyncdiff_model::text_encoder::ClipTextConfig;
use asyncdiff_model::vae::VaeConfig;
use asyncdiff_plan::{LayerId, WeightSpec};

pub(crate) use checked_job::{CheckedJob, DenoiseSetup};
pub use demo::demo_checkpoint;
pub use error::StoreError;
use part::Part;
use text::TextPart;

/// Programs that are kept for further jobs: one per picture size in use; each is some hundred kilobytes.
const PROGRAMS_KEPT: usize = 8;

/// Pixels per latent where there is no VAE to say so: that of every Stable Diffusion checkpoint.
const USUAL_PIXELS_PER_LATENT: u32 = 8;

/// Side of the latents where the denoiser's configuration does not say: 512 pixels, as diffusers assumes.
const USUAL_SAMPLE_SIZE: u32 = 64;

/// A checkpoint that jobs are made with.
pub struct ModelStore {
    name: String,
    fingerprint: String,
    denoiser_config: DenoiserConfig,
    denoiser: Part,
    scheduler: SchedulerConfig,
    text: Option<TextPart>,
    vae: Option<(VaeConfig, Part)>,
    programs: Mutex<Vec<(DenoiserShape, Arc<DenoiserProgram>)>>,
}

/// A denoiser whose parameters follow from a formula: for verification and benchmarks.
#[derive(Clone, Debug)]
pub struct FormulaModel {
    /// What it is called in messages.
    pub name: String,
    /// The text of `unet/config.json`.
    pub denoiser_config: String,
    /// The text of `scheduler/scheduler_config.json`.
    pub scheduler_config: String,
    /// The formula's seed.
    pub seed: u64,
}

impl ModelStore {
    /// Reads a checkpoint's configurations and opens its files of weights. Blocks, and downloads what a hub's cache
    /// lacks.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self, StoreError> {
        let denoiser_text = checkpoint.text("unet/config.json")?;
        let denoiser_config = DenoiserConfig::from_json(&denoiser_text)?;
        if let Some((key, found)) = denoiser_config.added_conditions() {
            return Err(StoreError::AddedConditions { key, found });
        }
        let scheduler_text = checkpoint.text("scheduler/scheduler_config.json")?;
        let scheduler = SchedulerConfig::from_json(&scheduler_text)?;
        // Found out now and not when the first job runs: a scheduler whose options are not supported.
        scheduler.kind()?;
        let text = TextPart::open(checkpoint)?;
        let vae_text = checkpoint.text("vae/config.json")?;
        let vae_config = VaeConfig::from_json("vae/config.json", &vae_text).map_err(StoreError::Config)?;
        let vae_weights = checkpoint.weights("vae")?;
        let vae = Part::new("vae", vae_text, Box::new(vae_weights), vae_config.decoder_weight_specs());
        let widths = [
            ("width of the text encoder's output", text.width(), denoiser_config.cross_width()),
            ("number of the VAE's latent channels", vae_config.latent_channels as u32, denoiser_config.in_channels()),
        ];
        if let Some(&(what, found, expected)) = widths.iter().find(|(_, found, expected)| found != expected) {
            return Err(StoreError::PartsDisagree { what, found, expected });
        }
        Ok(Self {
            name: checkpoint.name(),
            fingerprint: fingerprint(&checkpoint.name(), &denoiser_text, &scheduler_text),
            denoiser_config,
            denoiser: Part::new("unet", denoiser_text, Box::new(checkpoint.weights("unet")?), Vec::new()),
            scheduler,
            text: Some(text),
            vae: Some((vae_config, vae)),
            programs: Mutex::new(Vec::new()),
        })
    }

    /// A denoiser alone, with parameters by formula: it takes conditions and gives latents.
    pub fn formula(model: FormulaModel) -> Result<Self, StoreError> {
        let weights: Box<dyn Weights> = Box::new(FormulaWeights { seed: model.seed });
        Self::denoiser_alone(model, weights)
    }

    /// A denoiser alone, with parameters from anywhere.
    pub fn denoiser_alone(model: FormulaModel, weights: Box<dyn Weights>) -> Result<Self, StoreError> {
        Ok(Self {
            fingerprint: fingerprint(&model.name, &model.denoiser_config, &model.scheduler_config),
            name: model.name,
            denoiser_config: DenoiserConfig::from_json(&model.denoiser_config)?,
            denoiser: Part::new("unet", model.denoiser_config, weights, Vec::new()),
            scheduler: SchedulerConfig::from_json(&model.scheduler_config)?,
            text: None,
            vae: None,
            programs: Mutex::new(Vec::new()),
        })
    }

    /// What the checkpoint is called in messages: its path, its hub id, or `the embedded model`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// By which a job's progress is known to be this model's: of its name and its configurations. Weights that were
    /// exchanged under the same name go unnoticed; hashing them would take minutes at each start.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Width and height in pixels that the checkpoint was trained for.
    #[must_use]
    pub fn default_size(&self) -> (u32, u32) {
        let [height, width] = self.denoiser_config.sample_size().unwrap_or([USUAL_SAMPLE_SIZE; 2]);
        (width * self.pixels_per_latent(), height * self.pixels_per_latent())
    }

    /// The checkpoint's own noise scheduler.
    pub fn default_scheduler(&self) -> Result<SchedulerKind, StoreError> {
        Ok(self.scheduler.kind()?)
    }

    /// The denoiser's parameters, for computing in this process.
    #[must_use]
    pub fn denoiser_weights(&self) -> &dyn Weights {
        self.denoiser.weights()
    }

    /// The denoiser's program for latents of a shape.
    pub fn program(&self, shape: DenoiserShape) -> Result<Arc<DenoiserProgram>, StoreError> {
        let find = |programs: &[(DenoiserShape, Arc<DenoiserProgram>)]| {
            programs.iter().find(|(known, _)| *known == shape).map(|(_, program)| Arc::clone(program))
        };
        if let Some(program) = find(&self.programs()) {
            return Ok(program);
        }
        // Built outside of the lock; two jobs that build the same one at the same time lose some milliseconds.
        let program = Arc::new(families::build(&self.denoiser_config, &shape)?);
        let mut programs = self.programs();
        if programs.len() == PROGRAMS_KEPT {
            programs.remove(0);
        }
        programs.push((shape, Arc::clone(&program)));
        Ok(program)
    }

    /// Everything that a worker builds the program from.
    #[must_use]
    pub fn denoiser_spec(&self, shape: DenoiserShape) -> DenoiserSpec {
        DenoiserSpec {
            config: self.denoiser.config().to_owned(),
            height: shape.height,
            width: shape.width,
            tokens: shape.tokens,
            // Settled when the job's workers are known.
            compute: ComputeType::F32,
        }
    }

    /// The parameters of layers and of the shared layers that they need. Reads and hashes what no job has used before.
    pub fn layer_weights(&self, program: &DenoiserProgram, owned: &[LayerId]) -> Result<Vec<WeightEntry>, StoreError> {
        let layers = program.program.with_shared(owned);
        let specs = layers.iter().flat_map(|&layer| &program.program.layer(layer).weights);
        specs.map(|spec| self.denoiser.entry(spec)).collect()
    }

    /// Parameters of the denoiser's folder, whatever they are for. Reads and hashes what was not used before.
    pub(crate) fn entries(&self, specs: &[WeightSpec]) -> Result<Vec<WeightEntry>, StoreError> {
        specs.iter().map(|spec| self.denoiser.entry(spec)).collect()
    }

    /// The text encoder with the list of its parameters. Reads and hashes them on first use.
    pub fn text_encoder(&self) -> Result<PartSpec, StoreError> {
        self.text.as_ref().ok_or(StoreError::NoTextEncoder)?.part().spec()
    }

    /// The VAE's decoder with the list of its parameters. Reads and hashes them on first use.
    pub fn vae_decoder(&self) -> Result<PartSpec, StoreError> {
        self.vae.as_ref().ok_or(StoreError::NoVae)?.1.spec()
    }

    /// The stored bytes of a parameter that an entry of this store named.
    pub fn stored(&self, digest: &[u8; 32]) -> Result<StoredTensor, StoreError> {
        let text = self.text.as_ref().map(TextPart::part);
        let vae = self.vae.as_ref().map(|(_, part)| part);
        let parts = [Some(&self.denoiser), text, vae];
        let found = parts.into_iter().flatten().find_map(|part| part.stored(digest).transpose());
        found.unwrap_or(Err(StoreError::UnknownDigest))
    }

    fn pixels_per_latent(&self) -> u32 {
        self.vae.as_ref().map_or(USUAL_PIXELS_PER_LATENT, |(config, _)| config.pixels_per_latent() as u32)
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, Vec<(DenoiserShape, Arc<DenoiserProgram>)>> {
        // A panic while it was held leaves a list of complete entries.
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fingerprint(name: &str, denoiser_config: &str, scheduler_config: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in [name, denoiser_config, scheduler_config] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
