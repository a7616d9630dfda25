//! The model that is part of the program.

use asyncdiff_model::checkpoint::Checkpoint;

use super::StoreError;

/// The embedded demo model; an error in a build without the feature `demo-model`.
#[cfg(feature = "demo-model")]
pub fn demo_checkpoint() -> Result<Checkpoint, StoreError> {
    macro_rules! files {
        ($($path:literal),* $(,)?) => {
            &[$(($path, include_bytes!(concat!("../../demo-model/model/", $path)) as &[u8])),*]
        };
    }
    Ok(Checkpoint::embedded(files![
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ])?)
}

/// The embedded demo model; an error in a build without the feature `demo-model`.
#[cfg(not(feature = "demo-model"))]
pub fn demo_checkpoint() -> Result<Checkpoint, StoreError> {
    Err(StoreError::NoDemoModel)
}
