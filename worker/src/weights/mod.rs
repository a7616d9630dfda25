//! Parameters on their way to a component: read here if a local checkpoint or the cache has them, else asked of the coordinator, which may say that
//! another worker has them. And the other way round: what this worker has, it sends to others that ask.

mod cache;
mod collect;
mod fetch;
mod local;
mod local_weights;
mod received;
mod transfer;

pub(crate) use cache::WeightCache;
pub(crate) use collect::Collector;
pub(crate) use local::LocalCheckpoint;
pub(crate) use local_weights::LocalWeights;
pub(crate) use received::ReceivedWeights;
