//! What can be wrong with a checkpoint as a whole.

use thiserror::Error;

use super::WeightsError;
use crate::ConfigError;

/// Why a checkpoint, or a file of it, could not be had. The operator's fault, or the hub's.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// A configuration file says something unsupported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The hub, or the way to it, failed.
    #[error("cannot get {file} of {repository} from the hub: {reason}\nhint: {hint}")]
    Hub {
        /// The repository's id.
        repository: String,
        /// The file, or `the list of files`.
        file: String,
        /// What went wrong.
        reason: String,
        /// What helps against it.
        hint: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {file}: {error}\nhint: check the path and its permissions")]
    Io {
        /// The file.
        file: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// A file that the layout needs is not there.
    #[error(
        "{file} is missing in {checkpoint}\nhint: a checkpoint in the diffusers layout has it; export or download it again"
    )]
    MissingFile {
        /// Where it was looked for.
        checkpoint: String,
        /// The file, relative to the checkpoint.
        file: String,
    },
    /// The weights are there, but only in a format that can run code when it is read.
    #[error(
        "{checkpoint} has {found} and no safetensors file for {component}\nhint: convert it: load it with diffusers and save_pretrained(..., safe_serialization=True)"
    )]
    NoSafetensors {
        /// The checkpoint.
        checkpoint: String,
        /// The folder, such as `unet`.
        component: String,
        /// The file that is there.
        found: String,
    },
    /// The path exists, but it is no checkpoint in the diffusers layout.
    #[error(
        "{path} is no checkpoint in the diffusers layout: found {found}, but no model_index.json\nhint: name the folder that has model_index.json; a single .safetensors or .ckpt file must be converted with diffusers first"
    )]
    NotDiffusers {
        /// The path.
        path: String,
        /// What is there.
        found: String,
    },
    /// Neither a path that exists nor a hub id.
    #[error(
        "{name} is neither a folder nor a hub id\nhint: give the path of a checkpoint, or an id such as owner/name or owner/name@revision"
    )]
    NotFound {
        /// What was given.
        name: String,
    },
    /// A file in the checkpoint names another one outside of it.
    #[error("{checkpoint} refers to {file}, which is not inside of it\nhint: do not use this checkpoint")]
    OutsidePath {
        /// The checkpoint.
        checkpoint: String,
        /// The path that it names.
        file: String,
    },
    /// Parameters could not be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
