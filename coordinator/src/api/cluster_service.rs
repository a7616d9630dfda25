//! The service that a real cluster gives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use asyncdiff_plan::JobId;
use asyncdiff_transport::identity::{ClusterAuthority, CoordinatorAddress};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::sync::broadcast::error::RecvError;

use super::plan_view::plan_view;
use super::{
    ApiError, EventStream, GivenSettings, JobDefaults, JoinLine, JoinLineRequest, NewJob, PlanView, Service,
    ServiceFuture, WorkerView,
};
use crate::cluster::{Cluster, ClusterError, JobHandle};
use crate::job::{Fault, JobEvent, JobRecord, JobState};
use crate::job_spec::JobSpec;
use crate::job_store::JobFiles;
use crate::render::chrome_trace;
use crate::{WorkerRecord, WorkerState};

/// The longest that a join line may let workers in: a month, so that a forgotten one does not stay open for years.
const JOIN_LINE_LIMIT: Duration = Duration::from_secs(31 * 24 * 3600);

/// A cluster behind the API.
pub struct ClusterService {
    cluster: Arc<Cluster>,
    defaults: JobDefaults,
    inviter: Option<Arc<Inviter>>,
    draining: AtomicBool,
}

/// What makes lines for workers.
pub struct Inviter {
    /// Signs what it invites.
    pub authority: Arc<ClusterAuthority>,
    /// Where workers find the coordinator.
    pub addresses: Vec<CoordinatorAddress>,
    /// How long a line lets workers in, if nobody says.
    pub valid_for: Duration,
}

impl ClusterService {
    /// Without an inviter the cluster's workers are chosen by whoever started it.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, defaults: JobDefaults, inviter: Option<Inviter>) -> Self {
        Self { cluster, defaults, inviter: inviter.map(Arc::new), draining: AtomicBool::new(false) }
    }

    /// Takes no further jobs: the coordinator is about to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// What a job that is done left; says why there is nothing otherwise.
    async fn files(&self, id: JobId) -> Result<JobFiles, ApiError> {
        if let Some(files) = self.cluster.files(id).await? {
            return Ok(files);
        }
        let job = self.cluster.job(id).await?;
        Err(match (job.state, job.error) {
            (JobState::Queued | JobState::Running, _) => {
                let hint = format!("wait for it: `coordinator job {}` says how it goes", id.0);
                ApiError::not_found(format!("{id} is not done yet"), hint)
            }
            (_, Some(error)) => ApiError::from(error),
            (_, None) => ApiError::not_found(format!("{id} was cancelled"), "submit it again"),
        })
    }
}

impl Inviter {
    /// A new line. Writes to disk.
    pub fn invite(&self, valid_for: Duration) -> Result<JoinLine, ApiError> {
        let made = self.authority.invite(self.addresses.clone(), valid_for);
        let token = made.map_err(|error| ApiError::from_text(&error.to_string(), Fault::Operator))?;
        Ok(JoinLine { expires_at: token.expires_at, line: token.to_string() })
    }
}

impl Service for ClusterService {
    fn submit(&self, job: NewJob) -> ServiceFuture<'_, JobRecord> {
        Box::pin(async move {
            job.check_key()?;
            let key = job.key.clone();
            let request = job.complete(&self.defaults)?;
            if self.draining.load(Ordering::Relaxed) {
                return Err(ApiError::from_text(
                    "the coordinator is stopping\nhint: submit to another, or later",
                    Fault::Peer,
                ));
            }
            Ok(self.cluster.submit_once(JobSpec::from(request), key).await?.record)
        })
    }

    fn jobs(&self) -> ServiceFuture<'_, Vec<JobRecord>> {
        Box::pin(async { Ok(self.cluster.jobs().await?) })
    }

    fn job(&self, id: JobId) -> ServiceFuture<'_, JobRecord> {
        Box::pin(async move { Ok(self.cluster.job(id).await?) })
    }

    fn cancel(&self, id: JobId) -> ServiceFuture<'_, JobRecord> {
        Box::pin(async move { Ok(self.cluster.cancel(id).await?) })
    }

    fn events(&self, id: JobId) -> ServiceFuture<'_, EventStream> {
        Box::pin(async move { Ok(event_stream(self.cluster.events(id).await?)) })
    }

    fn picture(&self, id: JobId) -> ServiceFuture<'_, Bytes> {
        Box::pin(async move {
            let picture = self.files(id).await?.picture;
            picture.ok_or_else(|| ApiError::not_found(format!("{id} made no picture"), "it was asked for latents"))
        })
    }

    fn trace(&self, id: JobId) -> ServiceFuture<'_, Bytes> {
        Box::pin(async move {
            let Some(trace) = self.files(id).await?.trace else {
                return Err(ApiError::not_found(format!("{id} was not traced"), "submit it with --trace"));
            };
            // A long job's trace has some hundred thousand events.
            let written = tokio::task::spawn_blocking(move || chrome_trace(&trace));
            Ok(Bytes::from(written.await.map_err(|error| ApiError::bug(error.to_string()))?))
        })
    }

    fn workers(&self) -> ServiceFuture<'_, Vec<WorkerView>> {
        Box::pin(async { Ok(self.cluster.workers().await?.iter().map(worker_view).collect()) })
    }

    fn drain_worker(&self, name: String) -> ServiceFuture<'_, WorkerView> {
        Box::pin(async move {
            let unknown =
                || ApiError::not_found(format!("there is no worker {name}"), "`coordinator workers` lists them");
            let workers = self.cluster.workers().await?;
            if !self.cluster.drain(&name).await? {
                return Err(unknown());
            }
            let worker = workers.iter().find(|worker| worker.name == name).ok_or_else(unknown)?;
            Ok(worker_view(&WorkerRecord { state: WorkerState::Leaving, ..worker.clone() }))
        })
    }

    fn plan(&self, settings: GivenSettings) -> ServiceFuture<'_, PlanView> {
        Box::pin(async move {
            let settings = settings.complete(&self.defaults)?;
            Ok(plan_view(&self.cluster.plan(&settings).await?))
        })
    }

    fn join_line(&self, request: JoinLineRequest) -> ServiceFuture<'_, JoinLine> {
        Box::pin(async move {
            let Some(inviter) = self.inviter.clone() else {
                return Err(ApiError::bad_request("this cluster takes no further workers", "use `coordinator serve`"));
            };
            let valid_for = request.valid_for_seconds.map_or(inviter.valid_for, Duration::from_secs);
            if valid_for.is_zero() || valid_for > JOIN_LINE_LIMIT {
                let error = format!("a join line cannot be valid for {valid_for:?}");
                return Err(ApiError::bad_request(error, "choose between a second and 31 days"));
            }
            let invited = tokio::task::spawn_blocking(move || inviter.invite(valid_for)).await;
            invited.map_err(|error| ApiError::bug(error.to_string()))?
        })
    }
}

/// How the job is, then what happens, until it ended.
pub(crate) fn event_stream(handle: JobHandle) -> EventStream {
    let now = JobEvent::Changed { job: Box::new(handle.record) };
    let later = stream::unfold(Some(handle.events), |events| async {
        let mut events = events?;
        loop {
            match events.recv().await {
                Ok(event @ JobEvent::Ended { .. }) => return Some((event, None)),
                Ok(event) => return Some((event, Some(events))),
                // Every event carries the whole record: what was missed does not matter.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    stream::iter([now]).chain(later).boxed()
}

fn worker_view(worker: &WorkerRecord) -> WorkerView {
    let state = match worker.state {
        WorkerState::Leaving => "leaving",
        WorkerState::Ready => "ready",
        WorkerState::Working => "working",
    };
    let device = |device: &asyncdiff_common::wire::DeviceInfo| match (&*device.name, device.threads) {
        ("", 1) => format!("{}, 1 thread", device.kind),
        ("", threads) => format!("{}, {threads} threads", device.kind),
        (name, _) => format!("{}, {name}", device.kind),
    };
    WorkerView {
        name: worker.name.clone(),
        state: state.to_owned(),
        devices: worker.devices.iter().map(device).collect(),
        memory_bytes: worker.devices.iter().map(|device| device.memory_bytes).sum(),
        parts: worker.parts.clone(),
        weights: worker.weights,
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::UnknownJob { job } => Self::unknown_job(job),
            other => other.to_error().into(),
        }
    }
}
