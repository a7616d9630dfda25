//! A checkpoint's files, wherever they are: in a folder, in this program, or on the hub.

use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::CheckpointError;
use super::mapped::map_file;

/// Files addressed by their path relative to the checkpoint, with `/` between folders.
pub(super) trait CheckpointFiles: Send + Sync {
    /// What the checkpoint is called in messages: its path or id.
    fn name(&self) -> String;

    /// Whether the file is there.
    fn exists(&self, file: &str) -> bool;

    /// The file's content; large files are mapped, not read.
    fn content(&self, file: &str) -> Result<Bytes, CheckpointError>;
}

/// A folder in the diffusers layout.
pub(super) struct Folder {
    pub(super) root: PathBuf,
}

impl CheckpointFiles for Folder {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn exists(&self, file: &str) -> bool {
        self.root.join(file).is_file()
    }

    fn content(&self, file: &str) -> Result<Bytes, CheckpointError> {
        if !self.exists(file) {
            return Err(CheckpointError::MissingFile { checkpoint: self.name(), file: file.to_owned() });
        }
        Ok(map_file(&self.root.join(file))?)
    }
}

/// Files that are part of the program: path and content.
pub(super) struct Embedded {
    pub(super) files: &'static [(&'static str, &'static [u8])],
}

impl CheckpointFiles for Embedded {
    fn name(&self) -> String {
        "the embedded model".to_owned()
    }

    fn exists(&self, file: &str) -> bool {
        self.files.iter().any(|(path, _)| *path == file)
    }

    fn content(&self, file: &str) -> Result<Bytes, CheckpointError> {
        let found = self.files.iter().find(|(path, _)| *path == file);
        let missing = || CheckpointError::MissingFile { checkpoint: self.name(), file: file.to_owned() };
        found.map(|(_, content)| Bytes::from_static(content)).ok_or_else(missing)
    }
}

/// Whether a path that a file of the checkpoint names stays inside of the checkpoint.
pub(super) fn stays_inside(file: &str) -> bool {
    Path::new(file).components().all(|component| matches!(component, Component::Normal(_)))
}
