//! Sends parameters that a worker asked for, one after the other.

use std::sync::Arc;

use asyncdiff_common::wire::{TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::link::{LinkSender, TensorFrame};
use bytes::Bytes;
use ractor::ActorRef;
use tokio::sync::mpsc;

use super::SessionMessage;
use crate::model_store::{ModelStore, StoreError};

/// Lists of digests that may wait: a worker asks for the next one when it has received the last, for a few parts at a
/// time.
pub(super) const WAITING_LISTS: usize = 16;

/// Parameters that a job's assignment listed.
pub(super) struct WantedWeights {
    pub(super) job: JobId,
    pub(super) digests: Vec<[u8; 32]>,
}

/// Serves lists until the session ends.
pub(super) async fn serve_weights(
    store: Arc<ModelStore>,
    link: LinkSender,
    mut wanted: mpsc::Receiver<WantedWeights>,
    session: ActorRef<SessionMessage>,
) {
    while let Some(WantedWeights { job, digests }) = wanted.recv().await {
        for digest in digests {
            let frame = match read(Arc::clone(&store), digest).await {
                Ok(frame) => frame,
                Err(reason) => {
                    if session.send_message(SessionMessage::WeightsUnreadable { job, reason }).is_err() {
                        return;
                    }
                    break;
                }
            };
            if let Err(error) = link.send_tensor(frame).await {
                // The session learns of the link's end by itself.
                tracing::debug!(%error, "weights are no longer sent");
                return;
            }
        }
    }
}

/// Reads a parameter on a thread that may wait for the disk. The bytes are copied there, because sending pages of a
/// mapped file would make the network's thread wait for the disk instead.
async fn read(store: Arc<ModelStore>, digest: [u8; 32]) -> Result<TensorFrame, String> {
    let reading = tokio::task::spawn_blocking(move || -> Result<TensorFrame, StoreError> {
        let stored = store.stored(&digest)?;
        let name = TensorName::Weight(digest);
        // Parameters belong to no job: the same bytes serve all.
        let header = TensorHeader {
            job: JobId(0),
            epoch: Epoch(0),
            name,
            shape: stored.shape.clone(),
            dtype: stored.dtype,
            delta: None,
        };
        Ok(TensorFrame { header, payload: Bytes::copy_from_slice(&stored.bytes) })
    });
    match reading.await {
        Ok(frame) => frame.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
