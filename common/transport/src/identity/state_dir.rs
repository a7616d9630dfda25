//! The directory in which a process keeps what it must not lose: its key, its certificate, its tokens.
//!
//! One process at a time may use it. Files appear whole or not at all, and only their owner may read them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The file whose lock says that the directory is in use.
const LOCK_FILE: &str = "lock";

/// The most bytes that a file of the directory may have. The largest, the coordinator's list of tokens and workers, has
/// below 2 MiB.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// An open state directory. It stays locked until this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why a state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// A file is not what this program wrote.
    #[error("{path} is damaged: {reason}\nhint: restore it from a copy, or move the directory away to start afresh")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process uses the directory.
    #[error(
        "{path} is in use by another process\nhint: give each process of this machine a state directory of its own"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The operating system refused something.
    #[error(
        "cannot {doing} {path}: {source}\nhint: see whether this user may write there and whether the disk is full"
    )]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl StateDir {
    /// Makes the directory if need be (mode 0700) and locks it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateDirError> {
        let path = path.into();
        let failed = |doing| {
            let path = path.clone();
            move |source| StateDirError::Io { doing, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed("make the directory"))?;
        // A directory that somebody made by hand is closed to others too: it will hold keys.
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(failed("restrict access to"))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock_path);
        let lock = lock.map_err(failed("make the lock file in"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::InUse { path }),
            Err(TryLockError::Error(source)) => Err(StateDirError::Io { doing: "lock", path, source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file; `None` if there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateDirError> {
        let path = self.path.join(name);
        let failed = |source| StateDirError::Io { doing: "read", path: path.clone(), source };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.len() > FILE_LIMIT_BYTES => {
                let reason = format!("it has {} bytes and at most {FILE_LIMIT_BYTES} are expected", metadata.len());
                Err(StateDirError::Damaged { path, reason })
            }
            Ok(_) => std::fs::read(&path).map(Some).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Writes a file (mode 0600): to a temporary name, synced, then renamed, so that a crash leaves the old or the new.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateDirError> {
        let path = self.path.join(name);
        let temporary = self.path.join(format!("{name}.new"));
        let written = || -> io::Result<()> {
            // A temporary file left over from a crash may have another mode: make it anew.
            match std::fs::remove_file(&temporary) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        written().map_err(|source| StateDirError::Io { doing: "write", path: path.clone(), source })
    }

    pub(crate) fn damaged(&self, name: &str, reason: impl ToString) -> StateDirError {
        StateDirError::Damaged { path: self.path.join(name), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_process_may_use_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(StateDirError::InUse { .. })));
        drop(first);
        StateDir::open(&path).unwrap();
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("state")).unwrap();
        state.write("key", b"secret").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.path().join("key")), 0o600);
    }

    #[test]
    fn writing_replaces_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        assert_eq!(state.read("name").unwrap(), None);
        state.write("name", b"old").unwrap();
        std::fs::write(state.path().join("name.new"), b"half").unwrap();
        state.write("name", b"new").unwrap();
        assert_eq!(state.read("name").unwrap().unwrap(), b"new");
        let mut files: Vec<_> = std::fs::read_dir(state.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["lock", "name"]);
    }
}
