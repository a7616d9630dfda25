//! Why jobs cannot be kept on disk or read from there.

use std::path::PathBuf;

use thiserror::Error;

/// Why jobs cannot be kept on disk or read from there.
#[derive(Debug, Error)]
pub enum JobStoreError {
    /// The file is not what this program wrote.
    #[error(
        "{path} is damaged ({reason}); {readable} jobs can still be read from it\nhint: `coordinator serve --recover-jobs` moves it aside and goes on with those; or restore it from a copy"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Jobs whose records are whole.
        readable: usize,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process\nhint: give each coordinator a state directory of its own")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error("cannot use {path}: {reason}\nhint: see whether this user may write there and whether the disk is full")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        reason: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "{path} has schema {found} and this version knows {known}\nhint: use the version that wrote it, or another state directory"
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
        /// The newest that is known here.
        known: u64,
    },
    /// The task that writes has ended.
    #[error("the task that keeps jobs has ended\nhint: see the coordinator's log; this is a bug")]
    Stopped,
    /// A record is longer than any should be.
    #[error("a record of {bytes} bytes is over the limit of {limit}\nhint: submit the job without --trace")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
