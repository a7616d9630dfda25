//! Receives a worker's tensors and hands each to the actor that waits for it, in one hop and without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use asyncdiff_common::wire::TensorName;
use asyncdiff_plan::{JobId, Rank};
use asyncdiff_transport::link::TensorReceiver;
use ractor::ActorRef;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{SessionMessage, WorkerPart};
use crate::actors::denoiser::{ArrivedPrediction, DenoiserMessage};

/// Who waits for a job's noise predictions.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) rank: Rank,
    /// For people.
    pub(crate) part: Arc<WorkerPart>,
    pub(crate) denoiser: ActorRef<DenoiserMessage>,
}

/// By job. Replaced as a whole when a job begins or ends, so that the receiving task can keep its copy in between.
pub(crate) type Routes = Arc<HashMap<JobId, Route>>;

/// Receives until the link closes.
pub(super) async fn receive_tensors(
    mut tensors: TensorReceiver,
    mut routes: watch::Receiver<Routes>,
    session: ActorRef<SessionMessage>,
) {
    let mut current = Arc::clone(&routes.borrow_and_update());
    while let Some(frame) = tensors.tensor().await {
        let arrived = Instant::now();
        // A job's route is set before its first command leaves, so it is there before anything can arrive for it.
        if routes.has_changed().unwrap_or(false) {
            current = Arc::clone(&routes.borrow_and_update());
        }
        match frame.header.name {
            TensorName::NoisePrediction(step, lane) => {
                // Without a route the job has just ended.
                let Some(route) = current.get(&frame.header.job) else { continue };
                let (epoch, payload) = (frame.header.epoch, frame.payload);
                let prediction = ArrivedPrediction { epoch, step, lane, from: route.rank, payload, arrived };
                // A denoiser that has ended wants no more predictions.
                let _ = route.denoiser.send_message(DenoiserMessage::Prediction(prediction));
            }
            TensorName::Reply { request, .. } => {
                let message = SessionMessage::TensorArrived { request, payload: frame.payload };
                if session.send_message(message).is_err() {
                    return;
                }
            }
            // Admission lets nothing else in.
            _ => {}
        }
    }
}
