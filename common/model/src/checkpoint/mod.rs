//! Checkpoints: where a model's parameters and configurations come from.

mod mapped;
mod other_weights;
mod safetensors_file;
mod stored;
mod weights;

pub use other_weights::{FormulaWeights, MapWeights};
pub use safetensors_file::SafetensorsWeights;
pub use stored::StoredTensor;
pub use weights::{Weights, WeightsError};
