//! A checkpoint without meaning: a tiny text encoder that can be loaded, and parameters that nobody reads beside it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use asyncdiff_common::wire::PartSpec;
use asyncdiff_model::checkpoint::{FormulaWeights, SafetensorsWeights, StoredTensor, Weights, WeightsError};
use asyncdiff_model::text_encoder::ClipTextConfig;
use asyncdiff_plan::WeightSpec;
use serde_json::{Map, json};

use crate::bench::model::{DENOISER, SCHEDULER};
use crate::model_store::{FormulaModel, ModelStore};

/// The text encoder: computing it takes no time to speak of.
const ENCODER: &str = r#"{"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "max_position_embeddings": 4, "hidden_act": "quick_gelu", "eos_token_id": 7}"#;

/// Width of its output.
pub(super) const WIDTH: u32 = 8;

/// Tokens that it is asked to encode.
pub(super) const TOKENS: [u32; 4] = [0, 1, 2, 7];

/// Bytes of the parameters, in turns: as large as those of a Stable Diffusion UNet's convolutions, linear layers and norms.
const SIZES: [u32; 5] = [14 << 20, 6 << 20, 3 << 20, 1 << 20, 4 << 10];

/// A file of parameters with a store that serves it.
pub(super) struct BenchCheckpoint {
    pub(super) store: ModelStore,
    /// What workers are asked to load.
    pub(super) part: PartSpec,
    /// Of all parameters.
    pub(super) bytes: u64,
}

/// The file's parameters, and those of a denoiser by formula.
struct FileAndFormula {
    file: SafetensorsWeights,
    formula: FormulaWeights,
}

impl Weights for FileAndFormula {
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError> {
        if self.file.contains(name) { self.file.stored(name, shape) } else { self.formula.stored(name, shape) }
    }

    fn contains(&self, name: &str) -> bool {
        self.file.contains(name) || self.formula.contains(name)
    }

    fn source(&self) -> String {
        self.file.source()
    }
}

impl BenchCheckpoint {
    /// Writes a file of about so many bytes and reads it once.
    pub(super) fn write(path: &Path, bytes: u64) -> anyhow::Result<Self> {
        let config = ClipTextConfig::from_json("the benchmark's text encoder", ENCODER)?;
        let mut specs = config.weight_specs();
        let mut so_far = 0;
        for (number, &size) in SIZES.iter().cycle().enumerate() {
            if so_far >= bytes {
                break;
            }
            specs.push(WeightSpec { name: format!("nobody.reads.{number}"), shape: vec![size / 4] });
            so_far += u64::from(size);
        }
        write_file(path, &specs)?;
        let weights = FileAndFormula { file: SafetensorsWeights::open(path)?, formula: FormulaWeights { seed: 1 } };
        let model = FormulaModel {
            name: "parameters without meaning".to_owned(),
            denoiser_config: DENOISER.to_owned(),
            scheduler_config: SCHEDULER.to_owned(),
            seed: 1,
        };
        let store = ModelStore::denoiser_alone(model, Box::new(weights))?;
        let weights = store.entries(&specs)?;
        let bytes = specs.iter().map(bytes_of).sum();
        let part = PartSpec { folder: "text_encoder".to_owned(), config: ENCODER.to_owned(), weights };
        Ok(Self { store, part, bytes })
    }
}

fn bytes_of(spec: &WeightSpec) -> u64 {
    4 * spec.shape.iter().map(|&axis| u64::from(axis)).product::<u64>()
}

/// F32 tensors whose bits follow from a counter: no two are equal, all are small numbers, and nothing on the way makes them smaller.
fn write_file(path: &Path, specs: &[WeightSpec]) -> anyhow::Result<()> {
    let mut header = Map::new();
    let mut offset = 0;
    for spec in specs {
        let end = offset + bytes_of(spec);
        header.insert(spec.name.clone(), json!({"dtype": "F32", "shape": spec.shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut state = 1u64;
    for _ in 0..offset / 4 {
        // Knuth's multiplier (MMIX).
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // From 1 to 2, less 1.5.
        let value = f32::from_bits(0x3f80_0000 | (state >> 41) as u32) - 1.5;
        file.write_all(&value.to_le_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_bytes_that_its_list_names() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = BenchCheckpoint::write(&folder.path().join("file"), 1 << 20).unwrap();
        assert!(checkpoint.bytes >= 1 << 20);
        let digests: std::collections::HashSet<_> = checkpoint.part.weights.iter().map(|entry| entry.digest).collect();
        assert_eq!(digests.len(), checkpoint.part.weights.len());
        for entry in &checkpoint.part.weights {
            let stored = checkpoint.store.stored(&entry.digest).unwrap();
            assert_eq!((stored.digest(), &stored.shape), (entry.digest, &entry.shape));
        }
    }
}
