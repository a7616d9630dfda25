//! The checkpoint as a source of the server of parameters.

use std::sync::Arc;

use asyncdiff_common::wire::WantedWeight;
use asyncdiff_transport::weights::WeightSource;
use bytes::Bytes;

use crate::model_store::ModelStore;

/// Reads what workers ask the coordinator for.
pub(crate) struct StoreSource(pub(crate) Arc<ModelStore>);

impl WeightSource for StoreSource {
    /// The bytes are copied here, because sending pages of a mapped file would make the network's thread wait for the disk instead.
    fn read(&self, wanted: &WantedWeight) -> Result<Bytes, String> {
        let stored = self.0.stored(&wanted.digest).map_err(|error| error.to_string())?;
        Ok(Bytes::copy_from_slice(&stored.bytes))
    }
}
