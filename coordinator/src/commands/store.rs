//! Opens the checkpoint that a coordinator makes pictures with.

use std::sync::Arc;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_model::checkpoint::Checkpoint;

use crate::cli::Failure;
use crate::model_store::{ModelStore, demo_checkpoint};

/// Opens a folder or a hub id, which may download it; without a name the embedded model.
pub(super) async fn open_store(model: Option<String>) -> Result<Arc<ModelStore>, Failure> {
    let open = move || {
        let checkpoint = match &model {
            Some(name) => Checkpoint::open(name)?,
            None => demo_checkpoint()?,
        };
        ModelStore::open(&checkpoint)
    };
    let opened = tokio::task::spawn_blocking(open).await;
    let store =
        opened.map_err(|error| Failure::new(ExitCode::Bug, format!("opening the checkpoint failed: {error}")))?;
    Ok(Arc::new(store?))
}
