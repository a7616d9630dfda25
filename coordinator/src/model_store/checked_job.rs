//! A job that was checked against the model: everything that can be found wrong without a worker is found here, at
//! submission.

use std::num::NonZeroU32;
use std::sync::Arc;

use asyncdiff_common::wire::{ComputeType, DenoiserSpec, DeviceInfo};
use asyncdiff_model::families::{DenoiserProgram, DenoiserShape, ENCODER_HIDDEN_STATES};
use asyncdiff_model::noise_scheduler::{NoiseScheduler, SchedulerKind};
use asyncdiff_model::seeded_noise::standard_normal;
use asyncdiff_plan::{InputKind, Prefer};

use super::size::latent_size;
use super::text::Tokens;
use super::{ModelStore, StoreError};
use crate::denoise::{LatentsShape, LoopSettings};
use crate::job::{Dtype, JobSettings};
use crate::job_spec::{ConditionTensor, Conditions, InitialLatents, JobSpec, Product};

/// Tokens of the encoder hidden states where there is no text encoder to say so: CLIP's.
const USUAL_TOKENS: u32 = 77;

/// Pictures per job: more pictures are more jobs.
const IMAGES: u32 = 1;

/// A job that fits the model, with all that follows from the two.
pub(crate) struct CheckedJob {
    pub(crate) spec: JobSpec,
    pub(crate) setup: DenoiseSetup,
    /// Token ids to be encoded, one row per row of the batch; absent if the conditions are given as tensors.
    pub(crate) tokens: Option<Vec<Vec<u32>>>,
    pub(crate) scheduler: NoiseScheduler,
    /// Things that the user should know.
    pub(crate) warnings: Vec<String>,
}

/// What a job asks of the denoiser: enough to plan it.
#[derive(Clone)]
pub(crate) struct DenoiseSetup {
    pub(crate) denoiser: DenoiserSpec,
    pub(crate) program: Arc<DenoiserProgram>,
    pub(crate) settings: LoopSettings,
    /// Evaluations of the denoiser.
    pub(crate) evaluations: NonZeroU32,
    /// Width and height in pixels.
    pub(crate) size: (u32, u32),
    /// What the user wants it computed in.
    dtype: Dtype,
    prefer: Prefer,
}

impl DenoiseSetup {
    /// Settles what the denoiser is computed in, by what each of the workers' devices is fastest with.
    pub(crate) fn settle_compute(&mut self, devices: &[&DeviceInfo]) -> Result<(), StoreError> {
        self.denoiser.compute = compute_of((self.dtype, self.prefer), devices)?;
        Ok(())
    }
}

fn compute_of((dtype, prefer): (Dtype, Prefer), devices: &[&DeviceInfo]) -> Result<ComputeType, StoreError> {
    let all_fast_in = |&compute: &ComputeType| devices.iter().all(|device| device.is_fast_in(compute));
    match dtype {
        Dtype::Auto if prefer != Prefer::Exact && !devices.is_empty() => {
            let short = [ComputeType::Bf16, ComputeType::F16].into_iter().find(all_fast_in);
            Ok(short.unwrap_or(ComputeType::F32))
        }
        Dtype::Bf16 => Ok(ComputeType::Bf16),
        // CPUs beside a GPU take f32 for it.
        Dtype::F16 if devices.iter().any(|device| device.kind == DeviceInfo::GPU) => Ok(ComputeType::F16),
        Dtype::F16 => Err(StoreError::NoHalfPrecision),
        Dtype::Auto | Dtype::F32 => Ok(ComputeType::F32),
    }
}

impl CheckedJob {
    /// Checks a job.
    pub(crate) fn new(store: &ModelStore, spec: JobSpec) -> Result<Self, StoreError> {
        let (setup, scheduler) = store.denoise_setup(&spec.settings, tokens_of(store, &spec.conditions)?)?;
        if spec.product == Product::Picture && store.vae.is_none() {
            return Err(StoreError::NoVae);
        }
        if let InitialLatents::Values(values) = &spec.latents
            && values.len() != setup.settings.shape.elements()
        {
            let expected = setup.settings.shape.elements();
            return Err(StoreError::LatentsLength { expected, found: values.len() });
        }
        let Tokens { rows, warnings } = match &spec.conditions {
            Conditions::Prompt { prompt, negative } => store.tokenize(prompt, negative, &setup.settings)?,
            Conditions::Tensors(tensors) => {
                check_conditions(&setup, |name| tensors.get(name))?;
                Tokens { rows: Vec::new(), warnings: Vec::new() }
            }
        };
        let tokens = matches!(spec.conditions, Conditions::Prompt { .. }).then_some(rows);
        Ok(Self { spec, setup, tokens, scheduler, warnings })
    }

    /// Noise of variance 1 that the loop starts from.
    ///
    /// # Shapes
    /// - returns: `[images, channels, height, width]`
    pub(crate) fn noise(&self) -> Vec<f32> {
        match &self.spec.latents {
            InitialLatents::Seed(seed) => standard_normal(*seed, self.setup.settings.shape.elements()),
            InitialLatents::Values(values) => values.clone(),
        }
    }
}

impl ModelStore {
    /// What settings ask of the denoiser, without a prompt: enough for a dry run.
    pub(crate) fn planning_setup(&self, settings: &JobSettings) -> Result<DenoiseSetup, StoreError> {
        let tokens = self.text.as_ref().map_or(USUAL_TOKENS, super::TextPart::length);
        Ok(self.denoise_setup(settings, tokens)?.0)
    }

    fn denoise_setup(&self, settings: &JobSettings, tokens: u32) -> Result<(DenoiseSetup, NoiseScheduler), StoreError> {
        if !settings.guidance_scale.is_finite() {
            return Err(StoreError::GuidanceScale { found: settings.guidance_scale });
        }
        let size = settings.size.unwrap_or_else(|| self.default_size());
        let (width, height) = latent_size(size, self.pixels_per_latent())?;
        let shape = DenoiserShape { height, width, tokens };
        let program = self.program(shape)?;
        let config = match &settings.scheduler {
            Some(name) => self.scheduler.clone().with_kind(name.parse::<SchedulerKind>()?),
            None => self.scheduler.clone(),
        };
        let scheduler = NoiseScheduler::new(&config, settings.steps.get() as usize, settings.seed)?;
        let evaluations = u32::try_from(scheduler.evaluations()).ok().and_then(NonZeroU32::new);
        let latents = LatentsShape { images: IMAGES, channels: self.denoiser_config.in_channels(), height, width };
        let setup = DenoiseSetup {
            denoiser: self.denoiser_spec(shape),
            program,
            settings: LoopSettings {
                shape: latents,
                // As in diffusers, guidance that does not strengthen the prompt is none.
                guidance_scale: (settings.guidance_scale > 1.0).then_some(settings.guidance_scale as f32),
            },
            evaluations: evaluations.unwrap_or(settings.steps),
            size,
            dtype: settings.dtype,
            prefer: settings.wishes.prefer,
        };
        Ok((setup, scheduler))
    }

    /// Rows of the batch: negative prompt and prompt, or the prompt alone.
    fn tokenize(&self, prompt: &str, negative: &str, settings: &LoopSettings) -> Result<Tokens, StoreError> {
        let text = self.text.as_ref().ok_or(StoreError::NoTextEncoder)?;
        if settings.guidance_scale.is_some() {
            return text.tokenize(&[("negative prompt", negative), ("prompt", prompt)]);
        }
        let mut tokens = text.tokenize(&[("prompt", prompt)])?;
        if !negative.is_empty() {
            let warning = "guidance is off (scale 1 or below), so the negative prompt has no effect";
            tokens.warnings.push(warning.to_owned());
        }
        Ok(tokens)
    }
}

/// Tokens of the encoder hidden states that the conditions will have.
fn tokens_of(store: &ModelStore, conditions: &Conditions) -> Result<u32, StoreError> {
    match conditions {
        Conditions::Prompt { .. } => Ok(store.text.as_ref().ok_or(StoreError::NoTextEncoder)?.length()),
        Conditions::Tensors(tensors) => {
            let name = ENCODER_HIDDEN_STATES;
            let missing = || StoreError::MissingCondition { name: name.to_owned() };
            let tensor = tensors.get(name).ok_or_else(missing)?;
            match tensor.shape.as_slice() {
                &[_, tokens, _] => Ok(tokens),
                found => Err(StoreError::ConditionShape {
                    name: name.to_owned(),
                    expected: "[rows, tokens, width]".to_owned(),
                    found: found.to_vec(),
                }),
            }
        }
    }
}

/// Compares the tensors given with what the program reads.
fn check_conditions<'a>(
    setup: &DenoiseSetup,
    find: impl Fn(&str) -> Option<&'a ConditionTensor>,
) -> Result<(), StoreError> {
    for input in &setup.program.program.inputs {
        let InputKind::Condition(name) = &input.kind else { continue };
        let tensor = find(name).ok_or_else(|| StoreError::MissingCondition { name: name.clone() })?;
        let expected: Vec<u32> =
            std::iter::once(setup.settings.rows()).chain(input.value.shape.iter().copied()).collect();
        let elements: u64 = expected.iter().map(|&axis| u64::from(axis)).product();
        if tensor.shape != expected || tensor.values.len() as u64 != elements {
            return Err(StoreError::ConditionShape {
                name: name.clone(),
                expected: format!("{expected:?}"),
                found: tensor.shape.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute(dtype: Dtype, devices: &[(&str, ComputeType)]) -> Option<ComputeType> {
        let info = |&(kind, fastest): &(&str, ComputeType)| DeviceInfo {
            kind: kind.to_owned(),
            name: String::new(),
            threads: 1,
            memory_bytes: 1 << 30,
            fastest,
        };
        let devices: Vec<DeviceInfo> = devices.iter().map(info).collect();
        compute_of((dtype, Prefer::Balanced), &devices.iter().collect::<Vec<_>>()).ok()
    }

    #[test]
    fn what_is_left_open_is_what_all_devices_are_fast_in() {
        let (bf16, f16, f32) = (ComputeType::Bf16, ComputeType::F16, ComputeType::F32);
        let [new, old, older] = [bf16, f16, f32].map(|fastest| (DeviceInfo::GPU, fastest));
        let [new_cpu, old_cpu] = [bf16, f32].map(|fastest| ("cpu", fastest));
        assert_eq!(compute(Dtype::Auto, &[new, new_cpu]), Some(bf16));
        assert_eq!(compute(Dtype::Auto, &[new, old]), Some(f16));
        for devices in [&[][..], &[new, older], &[old, new_cpu], &[new, old_cpu]] {
            assert_eq!(compute(Dtype::Auto, devices), Some(f32), "{devices:?}");
        }
    }

    #[test]
    fn f16_takes_a_gpu() {
        let (gpu, cpu) = ((DeviceInfo::GPU, ComputeType::F32), ("cpu", ComputeType::Bf16));
        assert_eq!(compute(Dtype::F16, &[cpu, gpu]), Some(ComputeType::F16));
        assert_eq!((compute(Dtype::F16, &[cpu]), compute(Dtype::F16, &[])), (None, None));
    }
}
