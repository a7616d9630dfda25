//! Checkpoints: where a model's parameters and configurations come from.

mod error;
mod files;
mod hub;
mod hub_settings;
mod layout;
mod mapped;
mod other_weights;
mod safetensors_file;
mod spelling;
mod stored;
mod weights;

pub use error::CheckpointError;
pub use hub_settings::HubSettings;
pub use layout::Checkpoint;
pub use other_weights::{FormulaWeights, MapWeights};
pub use safetensors_file::SafetensorsWeights;
pub use stored::StoredTensor;
pub use weights::{Weights, WeightsError};
