//! Jobs on disk: what was asked for, how far it is, what came of it. A coordinator that is killed at any moment and started
//! again finds them here.
//!
//! ```text
//!   Queue ── Change ──► JobWriter (a task, changes in order, many in one commit) ──► JobStore ──► jobs.redb
//!                          └── has it been kept? ──► whoever waits for that
//! ```
//!
//! The database is redb: one file, one commit at a time, each in two phases with a sync after both, so that what was
//! answered for is there after a crash of the process or of the machine, and a checksum over every page that is verified
//! whenever the file is opened. (fjall, the other candidate, leaves syncing to the caller, keeps many files, compacts them
//! in threads of its own and verifies a block when it is read; its strength, many small writes per second, is not needed
//! here.) It is used in `database.rs`, and in `disk.rs` for bytes that are in no file. Records carry a schema version and a BLAKE3 digest of their own, so that they
//! can be found in a file whose pages lead nowhere any more: that is what `salvage.rs` does.

mod database;
mod disk;
mod envelope;
mod error;
mod record;
mod salvage;
#[cfg(test)]
mod tests;
mod writer;

pub use database::JobStore;
pub use disk::Disk;
pub use error::JobStoreError;
pub use record::JobFiles;
pub(crate) use record::{Change, KeptJob, Progress, Starts, StoredJob};
pub use salvage::Recovered;
pub(crate) use writer::{FoundFiles, JobWriter};
