//! A folder of golden data: what another implementation computed from weights and inputs made by formula.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// The files of one folder.
pub(super) struct GoldenFolder {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
}

/// What a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoldenKind {
    /// Text encoders, VAE, noise schedulers.
    Parts,
    /// Denoising runs.
    Runs,
}

/// Why golden data cannot be used.
#[derive(Debug, Error)]
pub enum GoldenError {
    /// Neither the folder nor one below it has golden data.
    #[error(
        "{0} has no runs.json or parts.json, nor has a folder in it\nhint: name a folder of golden data, or one that holds such folders"
    )]
    NoGoldenData(PathBuf),
    /// A file is missing or unreadable.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system or the parser said.
        reason: String,
    },
    /// A tensor is missing.
    #[error("{file} has no tensor {name}")]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor.
        name: String,
    },
}

impl GoldenKind {
    fn stem(self) -> &'static str {
        match self {
            Self::Parts => "parts",
            Self::Runs => "runs",
        }
    }
}

/// The folders of golden data at or directly below `path`, by name.
pub(super) fn find(path: &Path) -> Result<Vec<(PathBuf, GoldenKind)>, GoldenError> {
    let kind_of = |path: &Path| {
        [GoldenKind::Parts, GoldenKind::Runs]
            .into_iter()
            .find(|kind| path.join(format!("{}.json", kind.stem())).is_file())
    };
    if let Some(kind) = kind_of(path) {
        return Ok(vec![(path.to_owned(), kind)]);
    }
    let unreadable =
        |error: std::io::Error| GoldenError::Unreadable { file: path.to_owned(), reason: error.to_string() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let folder = entry.map_err(unreadable)?.path();
        found.extend(kind_of(&folder).map(|kind| (folder, kind)));
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    if found.is_empty() { Err(GoldenError::NoGoldenData(path.to_owned())) } else { Ok(found) }
}

impl GoldenFolder {
    /// Opens a folder and reads its description.
    pub(super) fn open<T: DeserializeOwned>(path: &Path, kind: GoldenKind) -> Result<(Self, T), GoldenError> {
        let file = path.join(format!("{}.safetensors", kind.stem()));
        let tensors = candle_core::safetensors::load(&file, &Device::Cpu)
            .map_err(|error| GoldenError::Unreadable { file, reason: error.to_string() })?;
        let folder = Self { path: path.to_owned(), tensors };
        let name = format!("{}.json", kind.stem());
        let description = serde_json::from_str(&folder.text(&name)?)
            .map_err(|error| GoldenError::Unreadable { file: path.join(name), reason: error.to_string() })?;
        Ok((folder, description))
    }

    /// The folder's name, for reports.
    pub(super) fn name(&self) -> String {
        self.path
            .file_name()
            .map_or_else(|| self.path.display().to_string(), |name| name.to_string_lossy().into_owned())
    }

    /// A text file of the folder.
    pub(super) fn text(&self, file: &str) -> Result<String, GoldenError> {
        let file = self.path.join(file);
        std::fs::read_to_string(&file).map_err(|error| GoldenError::Unreadable { file, reason: error.to_string() })
    }

    /// Whether a tensor is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The tensors whose names begin with `prefix`, each with the rest of its name.
    pub(super) fn names_after<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.tensors.keys().filter_map(move |name| Some((name.as_str(), name.strip_prefix(prefix)?)))
    }

    /// The axes and elements of a tensor, whatever its type.
    pub(super) fn values(&self, name: &str) -> Result<(Vec<usize>, Vec<f64>), GoldenError> {
        let tensor = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let flat = tensor.flatten_all().and_then(|flat| flat.to_dtype(DType::F64)).and_then(|flat| flat.to_vec1());
        let values =
            flat.map_err(|error| GoldenError::Unreadable { file: self.path.join(name), reason: error.to_string() })?;
        Ok((tensor.dims().to_vec(), values))
    }

    fn missing(&self, name: &str) -> GoldenError {
        GoldenError::MissingTensor { file: self.path.clone(), name: name.to_owned() }
    }
}

/// The largest difference, relative to the largest expected value; infinite if lengths differ or something is no number.
pub(super) fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    if found.len() != expected.len() || found.iter().chain(expected).any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(expected).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
    if difference == 0.0 { 0.0 } else { difference / largest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_length_or_a_nan_is_never_within_tolerance() {
        assert!(relative_error(&[1.0], &[1.0, 2.0]).is_infinite());
        assert!(relative_error(&[f64::NAN], &[1.0]).is_infinite());
        assert!((relative_error(&[1.0, 3.0], &[1.0, 4.0]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn a_folder_without_golden_data_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(find(folder.path()), Err(GoldenError::NoGoldenData(path)) if path == folder.path()));
    }
}
