//! A checkpoint in the diffusers layout: which file holds what.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use serde::Deserialize;

use super::files::{CheckpointFiles, Embedded, Folder, stays_inside};
use super::hub::HubFiles;
use super::hub_settings::{HubId, HubSettings};
use super::{CheckpointError, SafetensorsWeights};
use crate::ConfigError;

/// The file that says which pipeline a checkpoint is for; every checkpoint has it.
const INDEX: &str = "model_index.json";

/// The pipelines whose parts are supported.
const PIPELINES: [&str; 1] = ["StableDiffusionPipeline"];

/// The names, without ending, that diffusers and transformers give to files of weights.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];

/// Endings of files of weights, the preferred one first: full precision before half, one file before several.
const ENDINGS: [&str; 5] = [
    "safetensors",
    "safetensors.index.json",
    "fp16.safetensors",
    "fp16.safetensors.index.json",
    "safetensors.index.fp16.json",
];

/// Files of weights that are recognised, but not read: unpickling them can run code.
const PICKLES: [&str; 4] =
    ["diffusion_pytorch_model.bin", "pytorch_model.bin", "diffusion_pytorch_model.fp16.bin", "pytorch_model.fp16.bin"];

/// A checkpoint: a folder, files embedded in the program, or a repository of the hub.
pub struct Checkpoint {
    files: Box<dyn CheckpointFiles>,
    pipeline: String,
}

/// What is read of `model_index.json`.
#[derive(Deserialize)]
struct PipelineIndex {
    #[serde(rename = "_class_name")]
    class_name: String,
}

/// What is read of the index of a sharded file.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder, or a hub id (`owner/name`, `owner/name@revision`) with the settings of the environment.
    pub fn open(name_or_path: &str) -> Result<Self, CheckpointError> {
        Self::open_with(name_or_path, HubSettings::from_env)
    }

    /// Opens a folder, or a hub id with these settings, which are asked for only then.
    pub fn open_with(
        name_or_path: &str,
        settings: impl FnOnce() -> Result<HubSettings, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let path = Path::new(name_or_path);
        if path.exists() {
            return Self::folder(path);
        }
        match HubId::parse(name_or_path) {
            Some(id) => Self::from_files(Box::new(HubFiles::open(id, settings()?)?)),
            None => Err(CheckpointError::NotFound { name: name_or_path.to_owned() }),
        }
    }

    /// Opens a folder in the diffusers layout.
    pub fn folder(path: &Path) -> Result<Self, CheckpointError> {
        if !path.join(INDEX).is_file() {
            return Err(CheckpointError::NotDiffusers { path: path.display().to_string(), found: listing(path) });
        }
        Self::from_files(Box::new(Folder { root: path.to_owned() }))
    }

    /// A checkpoint whose files are part of the program, each with its path relative to the checkpoint.
    pub fn embedded(files: &'static [(&'static str, &'static [u8])]) -> Result<Self, CheckpointError> {
        Self::from_files(Box::new(Embedded { files }))
    }

    fn from_files(files: Box<dyn CheckpointFiles>) -> Result<Self, CheckpointError> {
        let content = files.content(INDEX)?;
        let index: PipelineIndex =
            serde_json::from_slice(&content).map_err(|error| ConfigError::unreadable(INDEX, &error))?;
        if !PIPELINES.contains(&index.class_name.as_str()) {
            let expected = format!("supported is {}", PIPELINES.join(", "));
            return Err(ConfigError::new(INDEX, "_class_name", index.class_name, expected).into());
        }
        Ok(Self { files, pipeline: index.class_name })
    }

    /// What the checkpoint is called in messages: its path, its hub id, or `the embedded model`.
    #[must_use]
    pub fn name(&self) -> String {
        self.files.name()
    }

    /// The diffusers class of the whole, such as `StableDiffusionPipeline`.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Whether a file is there, by its path relative to the checkpoint.
    #[must_use]
    pub fn exists(&self, file: &str) -> bool {
        self.files.exists(file)
    }

    /// A file's content.
    pub fn content(&self, file: &str) -> Result<Bytes, CheckpointError> {
        self.files.content(file)
    }

    /// A file's content as text, such as `unet/config.json`.
    pub fn text(&self, file: &str) -> Result<String, CheckpointError> {
        let content = self.files.content(file)?;
        String::from_utf8(content.to_vec())
            .map_err(|_| ConfigError::new(file, "(file)", "not text", "UTF-8 is needed").into())
    }

    /// The parameters in a folder, such as `unet` or `text_encoder`.
    pub fn weights(&self, component: &str) -> Result<SafetensorsWeights, CheckpointError> {
        let endings = ENDINGS.iter().flat_map(|ending| STEMS.map(|stem| format!("{component}/{stem}.{ending}")));
        let Some(file) = endings.into_iter().find(|file| self.exists(file)) else {
            return Err(self.no_weights(component));
        };
        let shards = if file.ends_with(".json") { self.shards(component, &file)? } else { vec![file] };
        let mut contents = Vec::with_capacity(shards.len());
        for shard in shards {
            let content = self.files.content(&shard)?;
            contents.push((format!("{}/{shard}", self.name()), content));
        }
        Ok(SafetensorsWeights::from_shards(contents)?)
    }

    fn no_weights(&self, component: &str) -> CheckpointError {
        let pickle = PICKLES.map(|name| format!("{component}/{name}")).into_iter().find(|file| self.exists(file));
        match pickle {
            Some(found) => {
                CheckpointError::NoSafetensors { checkpoint: self.name(), component: component.to_owned(), found }
            }
            None => CheckpointError::MissingFile {
                checkpoint: self.name(),
                file: format!("{component}/{}.safetensors or {component}/{}.safetensors", STEMS[0], STEMS[1]),
            },
        }
    }

    /// The files that a shard index names, each once.
    fn shards(&self, component: &str, index_file: &str) -> Result<Vec<String>, CheckpointError> {
        let content = self.files.content(index_file)?;
        let index: ShardIndex =
            serde_json::from_slice(&content).map_err(|error| ConfigError::unreadable(index_file, &error))?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        match files.iter().find(|file| !stays_inside(file)) {
            Some(file) => Err(CheckpointError::OutsidePath { checkpoint: self.name(), file: file.clone() }),
            None => Ok(files.into_iter().map(|file| format!("{component}/{file}")).collect()),
        }
    }
}

/// The first entries of a folder, for a message.
fn listing(path: &Path) -> String {
    const SHOWN: usize = 8;
    let Ok(entries) = std::fs::read_dir(path) else {
        return "a file".to_owned();
    };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "an empty folder".to_owned(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
