//! Denoising runs of golden data as jobs: weights and inputs by formula, settings and partition from the files.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;

use asyncdiff_common::wire::ComputeType;
use asyncdiff_model::families::ENCODER_HIDDEN_STATES;
use asyncdiff_model::formula;
use asyncdiff_plan::{Cut, Encoding, Prefer, TimeShift, Wishes};
use serde::Deserialize;

use super::golden::{GoldenError, GoldenFolder, GoldenKind, relative_error};
use super::report::Verdict;
use crate::job::{Dtype, JobSettings};
use crate::job_spec::{ConditionTensor, Conditions, InitialLatents, JobSpec, Product};
use crate::model_store::FormulaModel;

/// f32 against f32 of another implementation over a whole run; the same semantics in f64 differ by at most 7.3e-6, wrong semantics by at
/// least 4e-2.
const TOLERANCE: f64 = 1e-4;

/// The same in bf16, at most 4.8e-2 over all runs: a factor's rounding is 2^-9 of it, and some forty layers of made-up weights and a dozen
/// guided steps pass it on. That a plan's semantics are right is f32's to say; this says that bf16 computes the same network.
const BF16_TOLERANCE: f64 = 1e-1;

/// The same in f16, whose rounding is an eighth of bf16's: so is what becomes of it. At most 6e-3 over the runs of sd15, by emulated kernels.
const F16_TOLERANCE: f64 = 1.25e-2;

/// Families whose runs are made by this program.
const SUPPORTED: [&str; 3] = ["sd15", "sd21", "sdxl"];

/// What the names of added conditions begin with among a folder's tensors; the argument's name follows.
const ADDED_CONDITION: &str = "seq/kw/added_cond_kwargs.";

/// Golden runs have no VAE; sizes are given in pixels of the usual one.
const PIXELS_PER_LATENT: u32 = 8;

/// What `runs.json` says.
#[derive(Deserialize)]
struct Description {
    model: String,
    seed: u64,
    dims: Dims,
    #[serde(default = "guidance_off")]
    guidance_scale: f64,
    #[serde(default)]
    components: BTreeMap<String, Vec<Vec<String>>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Dims {
    h: u32,
    w: u32,
    #[serde(default)]
    tokens: u32,
    #[serde(default)]
    cross: u32,
}

#[derive(Clone, Debug, Deserialize)]
struct Run {
    run: String,
    n: usize,
    s: u32,
    warm_up: u32,
    time_shift: bool,
    steps: NonZeroU32,
    #[serde(default)]
    variant: String,
    #[serde(default)]
    components: Option<String>,
}

/// The denoising runs of one folder.
pub(super) struct Family {
    folder: GoldenFolder,
    description: Description,
    compute: ComputeType,
}

/// One run to make.
pub(super) struct Case {
    /// The job.
    pub(super) spec: JobSpec,
    /// Slots of its plan: the number of workers that gives each a worker of its own.
    pub(super) slots: usize,
    run: String,
}

fn guidance_off() -> f64 {
    1.0
}

impl Family {
    /// Opens a folder.
    pub(super) fn open(path: &Path, compute: ComputeType) -> Result<Self, GoldenError> {
        let (folder, description) = GoldenFolder::open(path, GoldenKind::Runs)?;
        Ok(Self { folder, description, compute })
    }

    /// Leaves out all runs but those of these names, if there are any names.
    pub(super) fn only(mut self, names: &[String]) -> Self {
        if !names.is_empty() {
            let wanted: BTreeSet<String> =
                self.counted().filter(|run| names.contains(&self.full_name(run))).map(|run| run.run.clone()).collect();
            self.description.runs.retain(|run| wanted.contains(&run.run));
        }
        self
    }

    /// Whether no runs are left.
    pub(super) fn is_empty(&self) -> bool {
        self.description.runs.is_empty()
    }

    /// Why the family is not supported, if it is not.
    pub(super) fn unsupported(&self) -> Option<String> {
        let model = &self.description.model;
        let supported = SUPPORTED.contains(&model.as_str());
        (!supported).then(|| format!("family {model} is not supported yet; {} are", SUPPORTED.join(", ")))
    }

    /// Names of all runs that count.
    pub(super) fn run_names(&self) -> Vec<String> {
        self.counted().map(|run| self.full_name(run)).collect()
    }

    /// The folder's denoiser, with parameters by formula.
    pub(super) fn model(&self) -> Result<FormulaModel, GoldenError> {
        Ok(FormulaModel {
            name: self.folder.name(),
            denoiser_config: self.folder.text("unet/config.json")?,
            scheduler_config: self.folder.text("scheduler/scheduler_config.json")?,
            seed: self.description.seed,
        })
    }

    /// Every run as a job, or why it cannot be one.
    pub(super) fn cases(&self) -> Vec<(String, Result<Case, String>)> {
        self.counted().map(|run| (self.full_name(run), self.case(run))).collect()
    }

    /// Compares what a run gave.
    pub(super) fn verdict(&self, case: &Case, latents: &[f32], last_prediction: &[f32]) -> Verdict {
        let compare = |name: String, found: &[f32]| {
            let (_, expected) = self.folder.values(&name)?;
            let found: Vec<f64> = found.iter().map(|&value| f64::from(value)).collect();
            // The sequential run holds every step's prediction and some steps' latents: the last ones are compared.
            let expected = expected.rchunks(found.len().max(1)).next().unwrap_or_default();
            Ok((name, relative_error(&found, expected)))
        };
        let names = if case.run == "seq" {
            ["seq/latents".to_owned(), "seq/noise_pred".to_owned()]
        } else {
            [format!("{}/final_latents", case.run), format!("{}/noise_pred_last", case.run)]
        };
        let [latents_name, prediction_name] = names;
        let comparisons: Result<Vec<_>, GoldenError> =
            [compare(latents_name, latents), compare(prediction_name, last_prediction)].into_iter().collect();
        match comparisons {
            Ok(comparisons) => Verdict::of(self.tolerance(), comparisons),
            Err(error) => Verdict::Broken { reason: error.to_string() },
        }
    }

    fn tolerance(&self) -> f64 {
        match self.compute {
            ComputeType::Bf16 => BF16_TOLERANCE,
            ComputeType::F16 => F16_TOLERANCE,
            ComputeType::F32 => TOLERANCE,
        }
    }

    /// An official run that has an intended twin is superseded by it.
    fn counted(&self) -> impl Iterator<Item = &Run> {
        let names: BTreeSet<&str> = self.description.runs.iter().map(|run| run.run.as_str()).collect();
        let superseded =
            move |run: &Run| run.variant != "intended" && names.contains(format!("{}_intended", run.run).as_str());
        self.description.runs.iter().filter(move |run| !superseded(run))
    }

    fn full_name(&self, run: &Run) -> String {
        format!("{}/{}", self.folder.name(), run.run)
    }

    fn case(&self, run: &Run) -> Result<Case, String> {
        // The sequential run is listed with n 0.
        let sequential = run.n == 0;
        let modules = if sequential { None } else { Some(self.partition(run)?) };
        let slots = modules.as_ref().map_or(1, Vec::len) + run.s.saturating_sub(1) as usize;
        let wishes = Wishes {
            prefer: Prefer::Balanced,
            components: sequential.then_some(1),
            cut: modules.map(Cut::Modules),
            stride: Some(NonZeroU32::new(run.s).unwrap_or(NonZeroU32::MIN)),
            warm_up: Some(if sequential { u32::MAX } else { run.warm_up }),
            time_shift: Some(if run.time_shift { TimeShift::On } else { TimeShift::Off }),
            split_guidance: Some(false),
            round_start: None,
            // Golden data knows no rounding on the way.
            encoding: Some(Encoding::Full),
            max_workers: None,
        };
        let dims = &self.description.dims;
        let settings = JobSettings {
            steps: run.steps,
            guidance_scale: self.description.guidance_scale,
            size: Some((PIXELS_PER_LATENT * dims.w, PIXELS_PER_LATENT * dims.h)),
            wishes,
            dtype: match self.compute {
                ComputeType::Bf16 => Dtype::Bf16,
                ComputeType::F16 => Dtype::F16,
                ComputeType::F32 => Dtype::F32,
            },
            ..JobSettings::default()
        };
        let spec = JobSpec {
            conditions: self.conditions().map_err(|error| error.to_string())?,
            latents: InitialLatents::Values(self.input("latents", &[1, 4, dims.h, dims.w])),
            settings,
            product: Product::Latents,
        };
        Ok(Case { spec, slots, run: run.run.clone() })
    }

    fn partition(&self, run: &Run) -> Result<Vec<Vec<String>>, String> {
        let key = run.components.clone().unwrap_or_else(|| format!("n{}", run.n));
        let lists = self.description.components.get(&key);
        lists.cloned().ok_or_else(|| format!("runs.json has no components {key:?}"))
    }

    /// The prompts by formula, and the added conditions as diffusers was given them.
    fn conditions(&self) -> Result<Conditions, GoldenError> {
        let dims = &self.description.dims;
        let shape = [1, dims.tokens, dims.cross];
        let guided = self.description.guidance_scale > 1.0;
        let keys: &[&str] = if guided { &["negative_prompt_embeds", "prompt_embeds"] } else { &["prompt_embeds"] };
        let values = keys.iter().flat_map(|key| self.input(key, &shape)).collect();
        let tensor = ConditionTensor { shape: vec![keys.len() as u32, dims.tokens, dims.cross], values };
        let mut tensors = BTreeMap::from([(ENCODER_HIDDEN_STATES.to_owned(), tensor)]);
        for (tensor, name) in self.folder.names_after(ADDED_CONDITION) {
            let (shape, values) = self.folder.values(tensor)?;
            let shape = shape.into_iter().map(|axis| axis as u32).collect();
            let values = values.into_iter().map(|value| value as f32).collect();
            tensors.insert(name.to_owned(), ConditionTensor { shape, values });
        }
        Ok(Conditions::Tensors(tensors))
    }

    fn input(&self, key: &str, shape: &[u32]) -> Vec<f32> {
        let shape: Vec<usize> = shape.iter().map(|&axis| axis as usize).collect();
        formula::input(key, &shape, self.description.seed)
    }
}
