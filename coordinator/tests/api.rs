//! The API's server and client against a service in memory: routes, the token, limits, TLS.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_coordinator::api::{
    ApiError, ApiLimits, ApiServer, BearerToken, Client, ClientError, EventStream, GivenSettings, JobDefaults,
    JoinLine, JoinLineRequest, NewJob, PlanView, ServeError, Service, ServiceFuture, WorkerView,
};
use asyncdiff_coordinator::job::{Fault, JobEvent, JobRecord, JobState, JobTimes};
use asyncdiff_plan::JobId;
use asyncdiff_transport::identity::{ClientLine, ClusterAuthority};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::Notify;

const LIMITS: ApiLimits =
    ApiLimits { body_bytes: 1024, concurrent_requests: 2, listeners: 1, request_timeout: Duration::from_millis(300) };

/// A service that knows one job, `job-1`. Its workers never answer until they are let.
#[derive(Default)]
struct InMemory {
    workers: Notify,
}

fn record(job: NewJob, state: JobState) -> Result<JobRecord, ApiError> {
    let defaults = JobDefaults { steps: NonZeroU32::MIN, guidance_scale: 5.0, seed: 0 };
    Ok(JobRecord {
        id: JobId(1),
        request: job.complete(&defaults)?,
        times: JobTimes::default(),
        state,
        phase: "denoising".to_owned(),
        progress: (1, 1),
        warnings: Vec::new(),
        recoveries: Vec::new(),
        moves: Vec::new(),
        error: None,
        summary: None,
    })
}

fn known(id: JobId, state: JobState) -> Result<JobRecord, ApiError> {
    let job = NewJob { prompt: "a".to_owned(), ..NewJob::default() };
    if id == JobId(1) { record(job, state) } else { Err(ApiError::unknown_job(id)) }
}

fn answer<T: Send + 'static>(answer: Result<T, ApiError>) -> ServiceFuture<'static, T> {
    Box::pin(std::future::ready(answer))
}

impl Service for InMemory {
    fn submit(&self, job: NewJob) -> ServiceFuture<'_, JobRecord> {
        answer(record(job, JobState::Queued))
    }

    fn jobs(&self) -> ServiceFuture<'_, Vec<JobRecord>> {
        answer(known(JobId(1), JobState::Running).map(|job| vec![job]))
    }

    fn job(&self, id: JobId) -> ServiceFuture<'_, JobRecord> {
        answer(known(id, JobState::Running))
    }

    fn cancel(&self, id: JobId) -> ServiceFuture<'_, JobRecord> {
        answer(known(id, JobState::Cancelled))
    }

    fn events(&self, id: JobId) -> ServiceFuture<'_, EventStream> {
        let events = |job: JobRecord| {
            let changed = JobEvent::Changed { job: Box::new(job.clone()) };
            let ended = JobEvent::Ended { job: Box::new(JobRecord { state: JobState::Done, ..job }) };
            futures_util::stream::iter([changed, ended]).chain(futures_util::stream::pending()).boxed()
        };
        answer(known(id, JobState::Running).map(events))
    }

    fn picture(&self, id: JobId) -> ServiceFuture<'_, Bytes> {
        answer(known(id, JobState::Done).map(|_| Bytes::from_static(b"PNG")))
    }

    fn trace(&self, _id: JobId) -> ServiceFuture<'_, Bytes> {
        answer(Err(ApiError::not_found("job-1 was not traced", "submit it with --trace")))
    }

    fn workers(&self) -> ServiceFuture<'_, Vec<WorkerView>> {
        Box::pin(async {
            self.workers.notified().await;
            Ok(Vec::new())
        })
    }

    fn drain_worker(&self, name: String) -> ServiceFuture<'_, WorkerView> {
        answer(Err(ApiError::from_text(&format!("no worker {name}\nhint: start one"), Fault::Operator)))
    }

    fn plan(&self, _settings: GivenSettings) -> ServiceFuture<'_, PlanView> {
        answer(Err(ApiError::from_text("no worker\nhint: start one", Fault::Operator)))
    }

    fn join_line(&self, request: JoinLineRequest) -> ServiceFuture<'_, JoinLine> {
        answer(Ok(JoinLine { line: "adj1.x".to_owned(), expires_at: request.valid_for_seconds.unwrap_or(0) }))
    }
}

struct Rig {
    server: ApiServer,
    line: ClientLine,
    service: Arc<InMemory>,
}

impl Rig {
    fn start() -> Self {
        let token = BearerToken::random().unwrap();
        let service = Arc::new(InMemory::default());
        let server =
            ApiServer::start("127.0.0.1:0".parse().unwrap(), None, service.clone(), token.clone(), &LIMITS).unwrap();
        let address = server.address().to_string();
        let line = ClientLine { address, authority: None, bearer_token: token.secret().to_owned() };
        Self { server, line, service }
    }

    async fn client(&self) -> Client {
        Client::new(&self.line).await.unwrap()
    }

    /// A request that the client would not make.
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
        let url = format!("http://{}{path}", self.server.address());
        let request = reqwest::Client::new().post(url).bearer_auth(&self.line.bearer_token).body(body);
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result {
        Err(ClientError::Refused(error)) => error,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn every_route_answers_its_question() {
    let rig = Rig::start();
    let client = rig.client().await;
    let job = NewJob { prompt: "a red circle".to_owned(), ..NewJob::default() };
    assert_eq!(client.submit(&job).await.unwrap().request.prompt, "a red circle");
    assert_eq!(client.jobs().await.unwrap().len(), 1);
    assert_eq!(client.job(JobId(1)).await.unwrap().state, JobState::Running);
    assert_eq!(client.cancel(JobId(1)).await.unwrap().state, JobState::Cancelled);
    assert_eq!(client.picture(JobId(1)).await.unwrap(), "PNG");
    assert_eq!(client.join_line(&JoinLineRequest { valid_for_seconds: Some(7) }).await.unwrap().expires_at, 7);
    assert_eq!(refusal(client.job(JobId(2)).await).error, "there is no job-2");
    assert_eq!(refusal(client.trace(JobId(1)).await).hint, "submit it with --trace");
    let refused = refusal(client.plan(&GivenSettings::default()).await);
    assert_eq!((refused.error.as_str(), refused.hint.as_str()), ("no worker", "start one"));
    rig.server.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn events_arrive_in_order_and_end() {
    let rig = Rig::start();
    let mut events = rig.client().await.events(JobId(1)).await.unwrap();
    assert!(matches!(events.next().await.unwrap().unwrap(), JobEvent::Changed { .. }));
    assert!(matches!(events.next().await.unwrap().unwrap(), JobEvent::Ended { .. }));
}

#[tokio::test]
async fn nobody_gets_in_without_the_token() {
    let rig = Rig::start();
    for bearer_token in ["", "wrong", &rig.line.bearer_token[1..]] {
        let line = ClientLine { bearer_token: bearer_token.to_owned(), ..rig.line.clone() };
        let error = refusal(Client::new(&line).await.unwrap().jobs().await);
        assert!(error.error.contains("bearer token"), "{error}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_request_are_refused() {
    let rig = Rig::start();
    let (status, text) = rig.post("/v1/jobs", r#"{"prompt": "a", "stepz": 3}"#).await;
    assert!(status == 400 && text.contains("stepz") && text.contains("hint"), "{status} {text}");
    let (status, text) = rig.post("/v1/jobs", r#"{"prompt": "a", "settings": {"steps": 0}}"#).await;
    assert!(status == 400 && text.contains("nonzero"), "{status} {text}");
    let (status, text) = rig.post("/v1/jobs", "\u{0}\u{1}").await;
    assert!(status == 400 && text.contains("JSON"), "{status} {text}");
    let (status, text) = rig.post("/v1/jobs", vec![b' '; 2000]).await;
    assert!(status == 413 && text.contains("api.body_limit"), "{status} {text}");
    assert_eq!(rig.post("/v1/nothing", "").await.0, 404);
    assert_eq!(rig.post("/v1/workers", "").await.0, 405);
    assert_eq!(rig.post("/v1/jobs/x/events", "").await.0, 405);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let rig = Rig::start();
    assert!(refusal(rig.client().await.workers().await).error.contains("took longer"));
}

#[tokio::test]
async fn more_requests_than_allowed_are_refused_at_once() {
    let rig = Rig::start();
    let client = rig.client().await;
    let (first, second, third) = tokio::join!(client.workers(), client.workers(), async {
        let refused = loop {
            match client.jobs().await {
                Err(ClientError::Refused(error)) => break error,
                _ => tokio::task::yield_now().await,
            }
        };
        rig.service.workers.notify_waiters();
        refused
    });
    assert!(third.error.contains("too many requests"), "{third}");
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
}

#[tokio::test]
async fn more_listeners_than_allowed_are_refused_and_a_place_is_given_back() {
    let rig = Rig::start();
    let client = rig.client().await;
    let mut listening = client.events(JobId(1)).await.unwrap();
    listening.next().await.unwrap().unwrap();
    let refused = client.events(JobId(1)).await.map(|_| ());
    assert!(refusal(refused).error.contains("too many clients listen"));
    drop(listening);
    let again = async { while client.events(JobId(1)).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(5), again).await.unwrap();
}

#[tokio::test]
async fn other_addresses_than_loopback_need_tls() {
    let token = BearerToken::random().unwrap();
    let started = ApiServer::start("0.0.0.0:0".parse().unwrap(), None, Arc::new(InMemory::default()), token, &LIMITS);
    assert!(matches!(started, Err(ServeError::TlsNeeded { .. })));
}

#[tokio::test]
async fn a_client_trusts_the_authority_of_its_line_and_no_other() {
    let authority = ClusterAuthority::ephemeral().unwrap();
    let token = BearerToken::random().unwrap();
    let tls = authority.api_server_config(&[]).unwrap();
    let service = Arc::new(InMemory::default());
    let server = ApiServer::start("0.0.0.0:0".parse().unwrap(), Some(tls), service, token.clone(), &LIMITS).unwrap();
    let line = ClientLine {
        address: format!("127.0.0.1:{}", server.address().port()),
        authority: Some(authority.fingerprint()),
        bearer_token: token.secret().to_owned(),
    };
    assert_eq!(Client::new(&line).await.unwrap().jobs().await.unwrap().len(), 1);
    let impostor = ClusterAuthority::ephemeral().unwrap();
    let line = ClientLine { authority: Some(impostor.fingerprint()), ..line };
    let refused = Client::new(&line).await.unwrap().jobs().await;
    assert!(matches!(refused, Err(ClientError::Unreachable { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_what_to_do() {
    // A port that was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let line = ClientLine { address: address.clone(), authority: None, bearer_token: String::new() };
    let error = Client::new(&line).await.unwrap().jobs().await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.contains("coordinator serve"), "{error}");
}
