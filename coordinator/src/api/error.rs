//! What the API answers when it cannot do what was asked: the same three facts everywhere.

use std::fmt;

use asyncdiff_plan::JobId;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::failure::split_hint;
use crate::job::{Fault, JobError};

/// An error as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What failed and what was found.
    pub error: String,
    /// What to do.
    pub hint: String,
    /// Whose fault.
    pub fault: Fault,
    /// The HTTP status that goes with it.
    #[serde(skip, default = "internal")]
    status: StatusCode,
}

fn internal() -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

impl ApiError {
    /// An error with a status.
    #[must_use]
    pub fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>, fault: Fault) -> Self {
        Self { error: error.into(), hint: hint.into(), fault, status }
    }

    /// The request cannot be carried out as it is.
    #[must_use]
    pub fn bad_request(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, hint, Fault::Operator)
    }

    /// There is no such job, or nothing of it that was asked for.
    #[must_use]
    pub fn not_found(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, hint, Fault::Operator)
    }

    /// There is no job of that id.
    #[must_use]
    pub fn unknown_job(id: JobId) -> Self {
        Self::not_found(format!("there is no {id}"), "`coordinator jobs` lists the jobs that are known")
    }

    /// Something that cannot happen did.
    #[must_use]
    pub fn bug(error: impl Into<String>) -> Self {
        Self::new(internal(), error, "this is a bug: please report it with the coordinator's log", Fault::Bug)
    }

    /// An error whose text ends with a `hint:` line.
    #[must_use]
    pub fn from_text(text: &str, fault: Fault) -> Self {
        let (error, hint) = split_hint(text);
        let status = match fault {
            Fault::Bug => internal(),
            Fault::Cancelled => StatusCode::CONFLICT,
            Fault::Hardware | Fault::Peer => StatusCode::SERVICE_UNAVAILABLE,
            Fault::Operator => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error, hint.unwrap_or_default(), fault)
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        Self { hint: error.hint.clone(), ..Self::from_text(&error.message, error.fault) }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.error)?;
        if self.hint.is_empty() { Ok(()) } else { write!(formatter, "\nhint: {}", self.hint) }
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Three strings and an enum always serialise.
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
