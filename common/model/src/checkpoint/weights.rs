//! Where parameters come from: a file, embedded bytes, a formula, or what arrived over the network, all behind one trait.

use candle_core::{Device, Tensor};
use thiserror::Error;

use super::StoredTensor;

/// A source of parameters, addressed by the checkpoint's names such as `down_blocks.0.resnets.0.conv1.weight`.
pub trait Weights: Send + Sync {
    /// The parameter as it is stored; another stored shape than `shape` is an error.
    fn stored(&self, name: &str, shape: &[usize]) -> Result<StoredTensor, WeightsError>;

    /// Whether a parameter of this name is there.
    fn contains(&self, name: &str) -> bool;

    /// What the parameters come from, for messages: a file's path, `embedded unet`, `formula`.
    fn source(&self) -> String;

    /// The parameter's elements, whatever its stored float type.
    ///
    /// # Shapes
    /// - returns: `shape`, row-major; another stored shape is an error
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let stored = self.stored(name, shape)?;
        stored.to_f32().ok_or_else(|| WeightsError::NoFloat {
            source_name: self.source(),
            name: name.to_owned(),
            dtype: format!("{:?}", stored.dtype),
        })
    }

    /// The parameter on a device as F32, whatever its stored float type.
    ///
    /// # Shapes
    /// - returns: `shape`; another stored shape is an error
    fn tensor(&self, name: &str, shape: &[usize], device: &Device) -> Result<Tensor, WeightsError> {
        Tensor::from_vec(self.floats(name, shape)?, shape, device)
            .map_err(|error| WeightsError::Device { name: name.to_owned(), reason: error.to_string() })
    }
}

/// Why a parameter could not be had.
#[derive(Debug, Error)]
pub enum WeightsError {
    /// The device did not take the tensor.
    #[error("weight {name} does not fit on the device: {reason}\nhint: give this worker fewer layers or more memory")]
    Device {
        /// The parameter.
        name: String,
        /// What the device said.
        reason: String,
    },
    /// A file of weights breaks its own format: it is cut off, is no safetensors file, or its tensors overlap.
    #[error("{file} is no intact safetensors file: {reason}\nhint: download or export it again")]
    Damaged {
        /// The file.
        file: String,
        /// Which rule of the format it breaks.
        reason: String,
    },
    /// A file could not be read.
    #[error("cannot read {file}: {error}\nhint: check the path and its permissions")]
    Io {
        /// The file.
        file: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// No parameter of this name.
    #[error("weight {name} is missing in {source_name}\nhint: config.json and weights must belong to one checkpoint")]
    Missing {
        /// Where it was looked for.
        source_name: String,
        /// The parameter.
        name: String,
    },
    /// A parameter holds integers where floats are needed.
    #[error(
        "weight {name} in {source_name} holds {dtype}, and f16, bf16, f32 or f64 is needed\nhint: export the checkpoint in one of these"
    )]
    NoFloat {
        /// Where it is.
        source_name: String,
        /// The parameter.
        name: String,
        /// Its element type.
        dtype: String,
    },
    /// A parameter's shape differs from what the configuration says.
    #[error(
        "weight {name} in {source_name} has shape {found:?}, and the configuration says {expected:?}\nhint: config.json and weights must belong to one checkpoint"
    )]
    ShapeMismatch {
        /// Where it is.
        source_name: String,
        /// The parameter.
        name: String,
        /// The shape by the configuration.
        expected: Vec<usize>,
        /// The stored shape.
        found: Vec<usize>,
    },
    /// A received parameter has another number of bytes than its shape says.
    #[error("weight {name} in {source_name} has {found} bytes, and its shape says {expected:?}")]
    WrongLength {
        /// Where it is.
        source_name: String,
        /// The parameter.
        name: String,
        /// Bytes by shape and element type; `None` if that overflows.
        expected: Option<u64>,
        /// Bytes that are there.
        found: u64,
    },
}
