//! Routes: reads requests, asks the service, writes answers.

use std::sync::Arc;

use asyncdiff_plan::JobId;
use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::auth::{BearerToken, require_token};
use super::limits::{ApiLimits, Bounds, bound_requests};
use super::{ApiError, JoinLine, PlanView, Service, WorkerView, events, parse_job_id};
use crate::job::{Fault, JobRecord};

/// What handlers share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) service: Arc<dyn Service>,
    pub(super) bounds: Bounds,
}

type Payload = Result<Bytes, BytesRejection>;
type Answer<T> = Result<Json<T>, ApiError>;

/// All routes, behind the limits and the token.
pub(super) fn router(service: Arc<dyn Service>, token: BearerToken, limits: &ApiLimits) -> Router {
    let bounds = Bounds::new(limits);
    let shared = Shared { service, bounds: bounds.clone() };
    // What does not fit this machine's memory is no limit either.
    let body_limit = usize::try_from(limits.body_bytes).unwrap_or(usize::MAX);
    Router::new()
        .route("/v1/jobs", post(submit).get(jobs))
        .route("/v1/jobs/{id}", get(job).delete(cancel))
        .route("/v1/jobs/{id}/events", get(events::events))
        .route("/v1/jobs/{id}/picture", get(picture))
        .route("/v1/jobs/{id}/trace", get(trace))
        .route("/v1/workers", get(workers))
        .route("/v1/workers/{name}/drain", post(drain_worker))
        .route("/v1/plan", post(plan))
        .route("/v1/join-lines", post(join_line))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
        .layer(DefaultBodyLimit::max(body_limit))
        // The last layer is the first that a request meets: a stranger cannot take up a place among the requests.
        .layer(middleware::from_fn_with_state(bounds, bound_requests))
        .layer(middleware::from_fn_with_state(Arc::new(token), require_token))
}

async fn submit(State(shared): State<Shared>, body: Payload) -> Result<(StatusCode, Json<JobRecord>), ApiError> {
    let record = shared.service.submit(read(body)?).await?;
    Ok((StatusCode::CREATED, Json(record)))
}

async fn jobs(State(shared): State<Shared>) -> Answer<Vec<JobRecord>> {
    shared.service.jobs().await.map(Json)
}

async fn job(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<JobRecord> {
    shared.service.job(job_id(&id)?).await.map(Json)
}

async fn cancel(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<JobRecord> {
    shared.service.cancel(job_id(&id)?).await.map(Json)
}

async fn picture(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let png = shared.service.picture(job_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "image/png")], Body::from(png)).into_response())
}

async fn trace(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let trace = shared.service.trace(job_id(&id)?).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(trace)).into_response())
}

async fn workers(State(shared): State<Shared>) -> Answer<Vec<WorkerView>> {
    shared.service.workers().await.map(Json)
}

async fn drain_worker(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<WorkerView> {
    shared.service.drain_worker(name).await.map(Json)
}

async fn plan(State(shared): State<Shared>, body: Payload) -> Answer<PlanView> {
    shared.service.plan(read(body)?).await.map(Json)
}

async fn join_line(State(shared): State<Shared>, body: Payload) -> Answer<JoinLine> {
    shared.service.join_line(read(body)?).await.map(Json)
}

async fn unknown_route() -> ApiError {
    ApiError::not_found("there is no such route", "see `coordinator --help`; the routes begin with /v1/")
}

async fn wrong_method() -> ApiError {
    let (error, hint) = ("the route does not have this method", "routes that change something are POST or DELETE");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, error, hint, Fault::Operator)
}

pub(super) fn job_id(text: &str) -> Result<JobId, ApiError> {
    parse_job_id(text)
        .ok_or_else(|| ApiError::bad_request(format!("{text:?} is no job id"), "ids are numbers, such as 3 or job-3"))
}

/// Reads JSON whatever the content type says, and answers in the same form as every other error.
fn read<T: DeserializeOwned>(body: Payload) -> Result<T, ApiError> {
    let bytes = body.map_err(|rejection| {
        let hint = "send less, or raise api.body_limit in the server's configuration";
        ApiError::new(rejection.status(), rejection.body_text(), hint, Fault::Operator)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not what this route takes: {error}"), "send JSON as documented")
    })
}
