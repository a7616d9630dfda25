//! The client API: HTTP/JSON with server-sent events, for the command line and for anybody's own programs.
//!
//! ```text
//!   Client ── HTTP or HTTPS, bearer token ──► server (limits → authentication → routes) ──► dyn Service
//! ```
//!
//! | Route | Does |
//! |---|---|
//! | `POST /v1/jobs` | submits a [`NewJob`], answers its [`JobRecord`](crate::job::JobRecord) |
//! | `GET /v1/jobs` | lists jobs |
//! | `GET /v1/jobs/{id}` | one job |
//! | `GET /v1/jobs/{id}/events` | [`JobEvent`](crate::job::JobEvent)s until it ended |
//! | `GET /v1/jobs/{id}/picture` | the PNG |
//! | `GET /v1/jobs/{id}/trace` | the Chrome trace, if the job was traced |
//! | `DELETE /v1/jobs/{id}` | cancels it |
//! | `GET /v1/workers` | lists workers |
//! | `POST /v1/plan` | plans for [`GivenSettings`] without running |
//! | `POST /v1/join-lines` | makes a line for `worker join` |

mod auth;
mod client;
mod cluster_service;
mod error;
mod events;
mod limits;
mod plan_view;
mod routes;
mod server;
mod service;
mod types;

pub use auth::BearerToken;
pub use client::{Client, ClientError};
pub(crate) use cluster_service::event_stream;
pub use cluster_service::{ClusterService, Inviter};
pub use error::ApiError;
pub use limits::ApiLimits;
pub use server::{ApiServer, ServeError};
pub use service::{EventStream, Service, ServiceFuture};
pub use types::{
    ComponentView, EdgeView, GivenSettings, JobDefaults, JoinLine, JoinLineRequest, LinkView, NewJob, PlanView,
    WorkerView, parse_job_id,
};
