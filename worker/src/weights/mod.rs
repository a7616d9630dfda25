//! Parameters on their way to a component: read here if a local checkpoint has them, else asked of the coordinator.

mod collect;
mod local;
mod received;

pub(crate) use collect::Collector;
pub(crate) use local::LocalCheckpoint;
pub(crate) use received::ReceivedWeights;
