//! Bounds on what clients can make the server do: bytes, requests at a time, time.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ApiError;
use crate::job::Fault;

/// The bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// The most bytes that a request's body may have.
    pub body_bytes: u64,
    /// The most requests that are answered at the same time.
    pub concurrent_requests: u32,
    /// The most clients that listen to events at the same time.
    pub listeners: u32,
    /// How long a request may take until its answer begins.
    pub request_timeout: Duration,
}

/// The bounds with what is in use of them.
#[derive(Clone)]
pub(super) struct Bounds {
    requests: Arc<Semaphore>,
    listeners: Arc<Semaphore>,
    timeout: Duration,
}

impl Bounds {
    pub(super) fn new(limits: &ApiLimits) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(limits.concurrent_requests as usize)),
            listeners: Arc::new(Semaphore::new(limits.listeners as usize)),
            timeout: limits.request_timeout,
        }
    }

    /// A place among the listeners, for as long as it is held.
    pub(super) fn listen(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.listeners).try_acquire_owned().map_err(|_| busy("too many clients listen to events"))
    }
}

/// Refuses what is too much at once, and ends what takes too long.
pub(super) async fn bound_requests(
    State(bounds): State<Bounds>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // Refused, not queued: a queue would only move the waiting to where nobody sees it.
    let permit = bounds.requests.try_acquire().map_err(|_| busy("too many requests are being answered"))?;
    let answered = tokio::time::timeout(bounds.timeout, next.run(request)).await;
    drop(permit);
    answered.map_err(|_| {
        let error = format!("the request took longer than {} s", bounds.timeout.as_secs());
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, error, "see the coordinator's log and its load", Fault::Peer)
    })
}

fn busy(error: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error, "try again in a moment", Fault::Peer)
}
