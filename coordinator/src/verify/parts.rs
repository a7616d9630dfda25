//! Parts against golden data: text encoders, VAE and noise schedulers.

use std::collections::BTreeMap;
use std::path::Path;

use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::FormulaWeights;
use asyncdiff_model::formula;
use asyncdiff_model::kernels::{CudaError, DeviceChoice, Kernels};
use asyncdiff_model::noise_scheduler::{SchedulerConfig, SchedulerError, recorded_evaluations, run_formula_model};
use asyncdiff_model::text_encoder::{ClipTextConfig, ClipTextEncoder};
use asyncdiff_model::vae::{VaeConfig, VaeDecoder, VaeEncoder};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::golden::{GoldenError, GoldenFolder, GoldenKind, relative_error};
use super::report::{Line, Verdict};

/// f32 against f32 of another implementation: sums in another order differ by about 1e-5 of the largest value.
const TOLERANCE: f64 = 1e-4;

/// The numbers of steps that the golden data may hold for a noise scheduler.
const SCHEDULER_STEPS: std::ops::RangeInclusive<usize> = 1..=1000;

#[derive(Deserialize)]
struct Parts {
    seed: u64,
    parts: BTreeMap<String, Part>,
}

#[derive(Deserialize)]
struct Part {
    cls: String,
    config: Value,
    /// Inputs in prose: `inputs/NAME [axis,axis]`, several separated by commas.
    #[serde(default)]
    inputs: String,
}

#[derive(Debug, Error)]
enum PartError {
    #[error(transparent)]
    Golden(#[from] GoldenError),
    #[error(transparent)]
    Gpu(CudaError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    #[error("parts.json gives no shape for inputs/{0}")]
    NoInput(String),
    #[error(
        "{0} is not supported yet\nhint: CLIPTextModel, AutoencoderKL and the noise schedulers of SD 1.x and 2.x are"
    )]
    Unsupported(String),
}

type Comparisons = Vec<(String, f64)>;

/// Checks every part of a folder.
pub(super) fn verify(path: &Path, device: DeviceChoice, on_line: &mut dyn FnMut(Line)) -> Result<(), GoldenError> {
    let kernels = Kernels::for_choice(device);
    let (folder, parts): (GoldenFolder, Parts) = GoldenFolder::open(path, GoldenKind::Parts)?;
    for (name, part) in &parts.parts {
        let checker = Checker { folder: &folder, kernels: &kernels, seed: parts.seed, name, part };
        let verdict = match checker.compare() {
            Ok(comparisons) => Verdict::of(TOLERANCE, comparisons),
            Err(PartError::Unsupported(class)) => {
                Verdict::Unsupported { reason: PartError::Unsupported(class).to_string().replace('\n', "; ") }
            }
            Err(error) => Verdict::Broken { reason: error.to_string().replace('\n', "; ") },
        };
        on_line(Line::new(format!("{}/{name}", folder.name()), verdict));
    }
    Ok(())
}

struct Checker<'a> {
    folder: &'a GoldenFolder,
    /// Or why there are none: then no part that takes them can be compared.
    kernels: &'a Result<Kernels, CudaError>,
    seed: u64,
    name: &'a str,
    part: &'a Part,
}

impl Checker<'_> {
    fn compare(&self) -> Result<Comparisons, PartError> {
        match self.part.cls.as_str() {
            "CLIPTextModel" | "CLIPTextModelWithProjection" => self.compare_text_encoder(),
            "AutoencoderKL" => self.compare_vae(),
            class if class.ends_with("Scheduler") => self.compare_scheduler(),
            class => Err(PartError::Unsupported(class.to_owned())),
        }
    }

    fn compare_text_encoder(&self) -> Result<Comparisons, PartError> {
        let config =
            ClipTextConfig::from_json("config.json", &self.part.config.to_string()).map_err(ModelError::from)?;
        let (shape, ids) = self.folder.values(&format!("{}/input_ids", self.name))?;
        let width = shape.last().copied().unwrap_or(1).max(1);
        let tokens: Vec<Vec<u32>> = ids.chunks(width).map(|row| row.iter().map(|&id| id as u32).collect()).collect();
        let encoding = ClipTextEncoder::new(&config, width, &self.weights(), self.kernels()?)?.encode(&tokens)?;
        let mut comparisons = vec![
            self.compare_tensor("last_hidden_state", &encoding.last_hidden_state)?,
            self.compare_tensor("penultimate", &encoding.penultimate)?,
        ];
        if let Some(projected) = &encoding.projected {
            comparisons.push(self.compare_tensor("text_embeds", projected)?);
        }
        Ok(comparisons)
    }

    fn compare_vae(&self) -> Result<Comparisons, PartError> {
        let config = VaeConfig::from_json("config.json", &self.part.config.to_string()).map_err(ModelError::from)?;
        let mut comparisons = Vec::new();
        if self.folder.has(&format!("{}/decode", self.name)) {
            let latents = self.input("latents")?;
            let decoder = VaeDecoder::new(&config, size_of(&latents)?, &self.weights(), self.kernels()?)?;
            comparisons.push(self.compare_tensor("decode", &decoder.decode(&latents)?)?);
        }
        if self.folder.has(&format!("{}/encode_mean", self.name)) {
            let image = self.input("image")?;
            let encoder = VaeEncoder::new(&config, size_of(&image)?, &self.weights(), self.kernels()?)?;
            let encoded = encoder.encode(&image)?;
            comparisons.push(self.compare_tensor("encode_mean", &encoded.mean)?);
            comparisons.push(self.compare_tensor("encode_logvar", &encoded.log_variance)?);
        }
        Ok(comparisons)
    }

    fn compare_scheduler(&self) -> Result<Comparisons, PartError> {
        let mut config = self.part.config.clone();
        if let Value::Object(keys) = &mut config {
            keys.insert("_class_name".to_owned(), Value::String(self.part.cls.clone()));
        }
        let config = match SchedulerConfig::from_json(&config.to_string()) {
            Err(SchedulerError::UnsupportedClass { .. } | SchedulerError::IncompatibleClass { .. }) => {
                return Err(PartError::Unsupported(self.part.cls.clone()));
            }
            config => config?,
        };
        let mut comparisons = Vec::new();
        for steps in SCHEDULER_STEPS {
            let key = |what: &str| format!("{}/{steps}/{what}", self.name);
            if !self.folder.has(&key("timesteps")) {
                continue;
            }
            let run = run_formula_model(&config, steps, self.seed)?;
            let mut compare = |what: &str, found: &[f64]| -> Result<(), PartError> {
                let (_, expected) = self.folder.values(&key(what))?;
                comparisons.push((format!("{steps} steps, {what}"), relative_error(found, &expected)));
                Ok(())
            };
            compare("timesteps", &run.timesteps)?;
            if self.folder.has(&key("sigmas")) {
                compare("sigmas", run.sigmas.as_deref().unwrap_or_default())?;
            }
            let recorded = recorded_evaluations(steps, run.latents.len());
            let latents =
                recorded.into_iter().flat_map(|index| run.latents[index].iter().map(|&value| f64::from(value)));
            compare("latents", &latents.collect::<Vec<_>>())?;
        }
        Ok(comparisons)
    }

    fn compare_tensor(&self, what: &str, found: &Tensor) -> Result<(String, f64), PartError> {
        let (shape, expected) = self.folder.values(&format!("{}/{what}", self.name))?;
        let values = found.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).map_err(ModelError::from)?;
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let error = if found.dims() == shape { relative_error(&values, &expected) } else { f64::INFINITY };
        Ok((what.to_owned(), error))
    }

    /// The input whose name ends in `what`, with the shape that the description gives it.
    fn input(&self, what: &str) -> Result<Tensor, PartError> {
        let shapes = parse_inputs(&self.part.inputs);
        let found = shapes.into_iter().find(|(name, _)| name.ends_with(what));
        let (name, shape) = found.ok_or_else(|| PartError::NoInput(what.to_owned()))?;
        let values = formula::noise(&name, &shape, self.seed);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu).map_err(ModelError::from)?)
    }

    fn kernels(&self) -> Result<&Kernels, PartError> {
        self.kernels.as_ref().map_err(|error| PartError::Gpu(error.clone()))
    }

    fn weights(&self) -> FormulaWeights {
        FormulaWeights { seed: self.seed }
    }
}

/// Height and width.
fn size_of(image: &Tensor) -> Result<[usize; 2], PartError> {
    let (_batch, _channels, height, width) = image.dims4().map_err(ModelError::from)?;
    Ok([height, width])
}

/// `inputs/a [1,3], inputs/b [2] uniform` as names with shapes.
fn parse_inputs(text: &str) -> Vec<(String, Vec<usize>)> {
    let entries = text.split("inputs/").skip(1).filter_map(|entry| {
        let (name, rest) = entry.split_once(" [")?;
        let (axes, _) = rest.split_once(']')?;
        let shape = axes.split(',').map(|axis| axis.trim().parse().ok()).collect::<Option<Vec<usize>>>()?;
        Some((format!("inputs/{name}"), shape))
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_shapes_are_read_from_the_description() {
        let inputs = parse_inputs("inputs/vae_image [1,3,48,64], inputs/vae_latents [1,4,6,8] uniform");
        let expected = [("inputs/vae_image", vec![1, 3, 48, 64]), ("inputs/vae_latents", vec![1, 4, 6, 8])];
        assert_eq!(inputs, expected.map(|(name, shape)| (name.to_owned(), shape)));
    }
}
