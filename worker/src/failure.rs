//! From errors of models and links to the failures that travel to the user.

use asyncdiff_common::wire::WorkerFailure;
use asyncdiff_model::ModelError;
use asyncdiff_model::checkpoint::WeightsError;
use asyncdiff_transport::PeerName;

/// What a model error is for whoever asked.
pub(crate) fn model_failure(error: ModelError) -> WorkerFailure {
    match error {
        ModelError::Weights(error) => weights_failure(error),
        ModelError::ShapeMismatch { ref layer, .. } | ModelError::OperandCount { ref layer, .. } => {
            WorkerFailure::LayerFailed { layer: layer.clone(), reason: text(&error) }
        }
        ModelError::Cuda(_) | ModelError::NoMemory { .. } | ModelError::Tensor(_) => {
            WorkerFailure::LayerFailed { layer: "(none)".to_owned(), reason: text(&error) }
        }
        ModelError::Config(_)
        | ModelError::MissingCondition { .. }
        | ModelError::NoSuchLayer { .. }
        | ModelError::Program(_)
        | ModelError::SizeOutOfRange { .. }
        | ModelError::UnknownToken { .. } => WorkerFailure::BadAssignment { reason: text(&error) },
    }
}

/// The same, for an error of a known layer.
pub(crate) fn layer_failure(layer: &str, error: ModelError) -> WorkerFailure {
    match model_failure(error) {
        WorkerFailure::LayerFailed { reason, .. } => WorkerFailure::LayerFailed { layer: layer.to_owned(), reason },
        other => other,
    }
}

/// What an error of weights is for whoever asked.
pub(crate) fn weights_failure(error: WeightsError) -> WorkerFailure {
    let name = match &error {
        WeightsError::Device { name, .. }
        | WeightsError::Missing { name, .. }
        | WeightsError::NoFloat { name, .. }
        | WeightsError::ShapeMismatch { name, .. }
        | WeightsError::WrongLength { name, .. } => name.clone(),
        WeightsError::Damaged { file, .. } | WeightsError::Io { file, .. } => file.clone(),
    };
    WorkerFailure::BadWeight { name, reason: text(&error) }
}

/// An error's text without its hint: the failure has one of its own.
fn text(error: &dyn std::error::Error) -> String {
    without_hint(&error.to_string())
}

/// The part of a message before its hint.
pub(crate) fn without_hint(message: &str) -> String {
    message.split("\nhint:").next().unwrap_or_default().to_owned()
}

/// A peer as a failure names it: by its bare name, which the failure's text puts behind "worker".
pub(crate) fn peer_text(peer: &PeerName) -> String {
    match peer {
        PeerName::Coordinator => "(coordinator)".to_owned(),
        PeerName::Worker(name) => name.to_string(),
    }
}
