//! Parameters from safetensors: one file or several shards, memory-mapped or embedded. Only what is asked for is read.

use std::collections::HashMap;
use std::path::Path;

use asyncdiff_common::wire::DType;
use bytes::Bytes;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use super::mapped::map_file;
use super::spelling::other_spellings;
use super::{StoredTensor, Weights, WeightsError};

/// Parameters of one component of a checkpoint, in one or several safetensors files.
pub struct SafetensorsWeights {
    /// For messages: the file, or the first shard.
    source: String,
    tensors: HashMap<String, Entry>,
}

/// Where one tensor lies.
struct Entry {
    dtype: Dtype,
    shape: Vec<u32>,
    bytes: Bytes,
}

impl SafetensorsWeights {
    /// Maps one safetensors file.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::from_bytes(path.display().to_string(), map_file(path)?)
    }

    /// Takes the content of one safetensors file; `source` names it in messages.
    pub fn from_bytes(source: impl Into<String>, file: Bytes) -> Result<Self, WeightsError> {
        Self::from_shards(vec![(source.into(), file)])
    }

    /// Takes the contents of all shards, each with its name for messages. A tensor that is in two of them is an error.
    pub fn from_shards(shards: Vec<(String, Bytes)>) -> Result<Self, WeightsError> {
        let source = shards.first().map(|(name, _)| name.clone()).unwrap_or_default();
        let mut tensors = HashMap::new();
        for (file, bytes) in shards {
            for (name, entry) in entries(&file, &bytes)? {
                if tensors.insert(name.clone(), entry).is_some() {
                    return Err(WeightsError::Damaged { file, reason: format!("{name} is in two of the shards") });
                }
            }
        }
        Ok(Self { source, tensors })
    }

    /// The names of all tensors, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name).or_else(|| other_spellings(name).iter().find_map(|other| self.tensors.get(other)))
    }
}

impl Weights for SafetensorsWeights {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        let entry = self
            .entry(name)
            .ok_or_else(|| WeightsError::Missing { source_name: self.source.clone(), name: name.to_owned() })?;
        let dtype = match entry.dtype {
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
            Dtype::F64 => DType::F64,
            Dtype::I64 => DType::I64,
            Dtype::U8 => DType::U8,
            other => {
                return Err(WeightsError::NoFloat {
                    source_name: self.source.clone(),
                    name: name.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        };
        let stored = StoredTensor { dtype, shape: entry.shape.clone(), bytes: entry.bytes.clone() };
        stored.checked(name, &self.source, shape)
    }

    fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    fn source(&self) -> String {
        self.source.clone()
    }
}

/// The tensors of one file; the parser refuses offsets that overlap, leave gaps or pass the file's end.
fn entries(file: &str, bytes: &Bytes) -> Result<Vec<(String, Entry)>, WeightsError> {
    let damaged = |reason: String| WeightsError::Damaged { file: file.to_owned(), reason };
    let parsed =
        SafeTensors::deserialize(bytes).map_err(|error| damaged(format!("{error} ({} bytes)", bytes.len())))?;
    let mut found = Vec::with_capacity(parsed.len());
    for (name, view) in parsed.iter() {
        let axes: Result<Vec<u32>, _> = view.shape().iter().map(|&axis| u32::try_from(axis)).collect();
        let shape = axes.map_err(|_| damaged(format!("{name} has an axis longer than {}", u32::MAX)))?;
        let entry = Entry { dtype: view.dtype(), shape, bytes: bytes.slice_ref(view.data()) };
        found.push((name.to_owned(), entry));
    }
    Ok(found)
}
