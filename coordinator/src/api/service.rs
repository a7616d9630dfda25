//! What the API needs of a cluster. The server knows nothing else of it, so that routes are tested without one.

use asyncdiff_plan::JobId;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::{ApiError, GivenSettings, JoinLine, JoinLineRequest, NewJob, PlanView, WorkerView};
use crate::job::{JobEvent, JobRecord};

/// What a service's methods return.
pub type ServiceFuture<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// What happens to a job, until it ended.
pub type EventStream = BoxStream<'static, JobEvent>;

/// A cluster as its clients see it.
pub trait Service: Send + Sync + 'static {
    /// Queues a job.
    fn submit(&self, job: NewJob) -> ServiceFuture<'_, JobRecord>;

    /// The jobs that are known, oldest first.
    fn jobs(&self) -> ServiceFuture<'_, Vec<JobRecord>>;

    /// One job.
    fn job(&self, id: JobId) -> ServiceFuture<'_, JobRecord>;

    /// Stops a job. One that has ended stays as it is.
    fn cancel(&self, id: JobId) -> ServiceFuture<'_, JobRecord>;

    /// What happens to a job from now on; begins with how it is.
    fn events(&self, id: JobId) -> ServiceFuture<'_, EventStream>;

    /// The PNG of a job that is done.
    fn picture(&self, id: JobId) -> ServiceFuture<'_, Bytes>;

    /// The Chrome trace of a job that was traced.
    fn trace(&self, id: JobId) -> ServiceFuture<'_, Bytes>;

    /// The workers.
    fn workers(&self) -> ServiceFuture<'_, Vec<WorkerView>>;

    /// Has a worker leave as soon as no job needs it; jobs that do move to others first. The worker as it is then.
    fn drain_worker(&self, name: String) -> ServiceFuture<'_, WorkerView>;

    /// What would be done for these settings.
    fn plan(&self, settings: GivenSettings) -> ServiceFuture<'_, PlanView>;

    /// A new line for workers to join with.
    fn join_line(&self, request: JoinLineRequest) -> ServiceFuture<'_, JoinLine>;
}
