//! Measuring the link to another worker.

use asyncdiff_common::wire::{WorkerFailure, WorkerReply};
use asyncdiff_transport::WorkerName;
use tokio::sync::watch;

use super::RequestResult;
use crate::actors::PeerState;
use crate::failure::without_hint;
use crate::probing::ProcessorTime;

/// What is to be measured.
pub(crate) struct MeasureLink {
    pub(crate) peer: WorkerName,
    /// Its link: open, or being dialled.
    pub(crate) link: watch::Receiver<PeerState>,
    pub(crate) processor_time: ProcessorTime,
}

pub(crate) async fn measure_link(order: MeasureLink) -> RequestResult {
    let MeasureLink { peer, link, processor_time } = order;
    let failed = |reason: &str| WorkerFailure::PeerFailed { peer: peer.to_string(), reason: without_hint(reason) };
    let path = PeerState::opened(link).await.map_err(|reason| failed(&reason))?;
    let measured = path.measure(processor_time).await.map_err(|error| failed(&error.to_string()))?;
    tracing::debug!(%peer, ?measured, "measured a link");
    Ok(WorkerReply::LinkMeasured(measured))
}
