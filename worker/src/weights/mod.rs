//! Parameters on their way to a component: read here if a local checkpoint or the cache has them, else asked of the coordinator.

mod cache;
mod collect;
mod local;
mod received;

pub(crate) use cache::WeightCache;
pub(crate) use collect::{Collector, LocalWeights};
pub(crate) use local::LocalCheckpoint;
pub(crate) use received::ReceivedWeights;
