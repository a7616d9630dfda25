//! Where the database's bytes are: a file, or a disk that whoever starts a cluster brings along.
//!
//! The second is for simulations: of a computer that loses what was not synced when its power fails, in a process that lives on.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, StorageBackend};

/// Bytes that are there again when they are read, and that survive a crash once they are synced.
pub trait Disk: Debug + Send + Sync + 'static {
    /// How many bytes there are.
    fn length(&self) -> io::Result<u64>;

    /// Reads bytes; an error if there are not as many.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes bytes that are there already, or behind a change of the length.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts bytes off or adds zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Returns when everything that was changed before survives a crash.
    fn sync(&self) -> io::Result<()>;
}

/// Where a database is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Disk(Arc<dyn Disk>),
    File(PathBuf),
}

impl Place {
    /// What it is called in messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Disk(_) => Path::new("the simulated disk"),
            Self::File(path) => path,
        }
    }

    pub(super) fn open(&self, builder: &mut Builder) -> Result<Database, DatabaseError> {
        match self {
            Self::Disk(disk) => builder.create_with_backend(DiskBackend(Arc::clone(disk))),
            Self::File(path) => builder.create(path),
        }
    }
}

#[derive(Debug)]
struct DiskBackend(Arc<dyn Disk>);

impl StorageBackend for DiskBackend {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_length(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write(offset, data)
    }
}
