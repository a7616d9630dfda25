//! The API's client: what the command line uses, also from another machine.

use std::net::SocketAddr;
use std::time::Duration;

use asyncdiff_plan::JobId;
use asyncdiff_transport::identity::{API_SERVER_NAME, ClientLine, IdentityError, api_client_config};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt};
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{ApiError, GivenSettings, JoinLine, JoinLineRequest, NewJob, PlanView, WorkerView, events};
use crate::job::{JobEvent, JobRecord};

/// How long connecting may take: a few round trips around the world and a lost packet or two.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take. A little more than servers give themselves, so that their message arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a stream of events may be silent: three times the server's sign of life.
const SILENCE_LIMIT: Duration = Duration::from_secs(3 * events::KEEP_ALIVE.as_secs());

/// The most bytes of an answer: a trace of a long job, with room.
const ANSWER_LIMIT_BYTES: usize = 256 << 20;

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    address: String,
    bearer_token: String,
}

/// Why the server gave no answer, or not the one that was wanted.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The line's address means nothing.
    #[error("{address} cannot be looked up: {reason}\nhint: check the client line and this machine's name resolution")]
    Address {
        /// The address.
        address: String,
        /// What the resolver says.
        reason: String,
    },
    /// TLS cannot be set up.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The connection ended before the answer did.
    #[error(
        "no coordinator answers at {address}: the connection ended ({reason})\nhint: see its log, or give the client line of another with --connect"
    )]
    Broken {
        /// Where it should be.
        address: String,
        /// What was found.
        reason: String,
    },
    /// The answer is not what this version understands.
    #[error("the server's answer cannot be understood: {reason}\nhint: run the same version of the program everywhere")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The server said no.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The server is silent.
    #[error("the coordinator at {address} did not answer in time\nhint: see its log and its load")]
    TimedOut {
        /// Where it should be.
        address: String,
    },
    /// Nobody is there, or not the one that the line means.
    #[error(
        "no coordinator answers at {address}: {reason}\nhint: start one with `coordinator serve`, or give the client line of another with --connect"
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What was found.
        reason: String,
    },
}

impl Client {
    /// A client for the server that the line names. Nothing is sent yet.
    pub async fn new(line: &ClientLine) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_LIMIT.max(ANSWER_TIMEOUT))
            .redirect(reqwest::redirect::Policy::none())
            // The line names the server: nobody else is to see the token.
            .no_proxy();
        let base = match line.authority {
            None => format!("http://{}", line.address),
            Some(authority) => {
                let address = resolve(&line.address).await?;
                builder =
                    builder.tls_backend_preconfigured(api_client_config(authority)?).resolve(API_SERVER_NAME, address);
                format!("https://{API_SERVER_NAME}:{}", address.port())
            }
        };
        let http = builder
            .build()
            .map_err(|error| ClientError::Unreachable { address: line.address.clone(), reason: chain(&error) })?;
        Ok(Self { http, base, address: line.address.clone(), bearer_token: line.bearer_token.clone() })
    }

    /// Submits a job.
    pub async fn submit(&self, job: &NewJob) -> Result<JobRecord, ClientError> {
        self.json(self.with_body(Method::POST, "/v1/jobs", job)).await
    }

    /// Lists jobs.
    pub async fn jobs(&self) -> Result<Vec<JobRecord>, ClientError> {
        self.json(self.request(Method::GET, "/v1/jobs")).await
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<JobRecord, ClientError> {
        self.json(self.request(Method::GET, &format!("/v1/jobs/{}", id.0))).await
    }

    /// Has a worker leave as soon as no job needs it. Names are of letters, digits and a few signs, so that they need no escaping.
    pub async fn drain(&self, worker: &str) -> Result<WorkerView, ClientError> {
        self.json(self.request(Method::POST, &format!("/v1/workers/{worker}/drain"))).await
    }

    /// Cancels a job.
    pub async fn cancel(&self, id: JobId) -> Result<JobRecord, ClientError> {
        self.json(self.request(Method::DELETE, &format!("/v1/jobs/{}", id.0))).await
    }

    /// What happens to a job, until it ended.
    pub async fn events(&self, id: JobId) -> Result<BoxStream<'static, Result<JobEvent, ClientError>>, ClientError> {
        let request = self.request(Method::GET, &format!("/v1/jobs/{}/events", id.0));
        // The stream lasts as long as the job; the client's read timeout watches over its silence.
        let response = self.checked(request.send().await.map_err(|error| self.failed(&error))?).await?;
        let client = self.clone();
        Ok(events::read_events(response.bytes_stream(), move |error| client.failed(&error)))
    }

    /// The PNG of a job that is done.
    pub async fn picture(&self, id: JobId) -> Result<Bytes, ClientError> {
        self.bytes(self.request(Method::GET, &format!("/v1/jobs/{}/picture", id.0))).await
    }

    /// The Chrome trace of a job that was traced.
    pub async fn trace(&self, id: JobId) -> Result<Bytes, ClientError> {
        self.bytes(self.request(Method::GET, &format!("/v1/jobs/{}/trace", id.0))).await
    }

    /// Lists workers.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ClientError> {
        self.json(self.request(Method::GET, "/v1/workers")).await
    }

    /// Plans without running.
    pub async fn plan(&self, settings: &GivenSettings) -> Result<PlanView, ClientError> {
        self.json(self.with_body(Method::POST, "/v1/plan", settings)).await
    }

    /// Asks for a line that workers join with.
    pub async fn join_line(&self, request: &JoinLineRequest) -> Result<JoinLine, ClientError> {
        self.json(self.with_body(Method::POST, "/v1/join-lines", request)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.bearer_token)
    }

    fn with_body(&self, method: Method, path: &str, body: &impl Serialize) -> RequestBuilder {
        self.request(method, path).json(body)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let bytes = self.bytes(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| ClientError::Malformed { reason: error.to_string() })
    }

    async fn bytes(&self, request: RequestBuilder) -> Result<Bytes, ClientError> {
        let response = request.timeout(ANSWER_TIMEOUT).send().await.map_err(|error| self.failed(&error))?;
        let response = self.checked(response).await?;
        self.body(response).await
    }

    /// Turns an answer that is no success into the error that it carries.
    async fn checked(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(ClientError::Refused(error)),
            Err(_) => Err(ClientError::Malformed { reason: format!("status {status} without an error of this API") }),
        }
    }

    async fn body(&self, response: Response) -> Result<Bytes, ClientError> {
        let mut stream = response.bytes_stream();
        let mut body = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.map_err(|error| self.failed(&error))?);
            if body.len() > ANSWER_LIMIT_BYTES {
                return Err(ClientError::Malformed { reason: format!("it has more than {ANSWER_LIMIT_BYTES} bytes") });
            }
        }
        Ok(body.freeze())
    }

    fn failed(&self, error: &reqwest::Error) -> ClientError {
        let address = self.address.clone();
        if error.is_timeout() && !error.is_connect() {
            return ClientError::TimedOut { address };
        }
        let reason = chain(error);
        match error.is_connect() || error.is_builder() {
            true => ClientError::Unreachable { address, reason },
            false => ClientError::Broken { address, reason },
        }
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, ClientError> {
    let failed = |reason: String| ClientError::Address { address: address.to_owned(), reason };
    let mut found = tokio::net::lookup_host(address).await.map_err(|error| failed(error.to_string()))?;
    found.next().ok_or_else(|| failed("the name has no address".to_owned()))
}

/// The innermost cause says what happened; the outer ones repeat the address.
fn chain(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
