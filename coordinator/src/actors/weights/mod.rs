//! Who sends which parameters to whom: the coordinator by itself, or a worker that has them.

mod directory;
mod holders;
mod source;

pub(crate) use directory::WeightDirectory;
pub use holders::WeightCounts;
pub(crate) use source::StoreSource;
