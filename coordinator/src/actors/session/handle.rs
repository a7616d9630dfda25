//! A worker as the coordinator's other actors use it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use asyncdiff_common::wire::{DenoiserSpec, DeviceInfo, Endpoint, Hello, LayerCost, WorkerReply, WorkerRequest};
use asyncdiff_plan::{Choice, Epoch, JobId, LayerId, Rank};
use asyncdiff_transport::link::LinkSender;
use bytes::Bytes;
use ractor::{ActorId, ActorRef};
use tokio::sync::{oneshot, watch};

use super::admission::ExpectedOfJob;
use super::known_links::{KnownLink, KnownLinks};
use super::measurements::Measurements;
use super::record::runs_of;
use super::requests::{Answer, NewRequest, RequestFailed};
use super::tensors::{Route, Routes};
use super::turnaround::Turnaround;
use super::{SessionAdmission, SessionMessage, TensorPromise, TensorSpec, WorkerPart, WorkerRecord, WorkerState};
use crate::actors::denoiser::DenoiserMessage;
use crate::actors::weights::WeightCounts;
use crate::denoise::LoopSettings;
use crate::failure::JobFailed;

/// One session with a worker. Clones are the same session; a worker that comes back has another.
#[derive(Clone)]
pub(crate) struct WorkerHandle(Arc<Inner>);

struct Inner {
    introduction: Introduction,
    session: ActorRef<SessionMessage>,
    link: LinkSender,
    admission: Arc<SessionAdmission>,
    routes: watch::Sender<Routes>,
    measurements: Measurements,
    turnaround: Turnaround,
    links: KnownLinks,
    /// No job is to use it any more.
    leaving: AtomicBool,
    /// Requests that somebody waits for.
    asked: AtomicUsize,
    /// Changes whenever something is heard of the worker.
    heard: watch::Sender<()>,
}

/// Counts a request for as long as somebody waits for it.
struct Asked<'a>(&'a WorkerHandle);

/// Who a worker is: its certificate's name and what it said of itself.
#[derive(Clone)]
pub(crate) struct Introduction {
    pub(crate) name: String,
    pub(crate) hello: Hello,
    /// Where other workers reach it.
    pub(crate) endpoint: Endpoint,
}

/// What a session needs to let a job's noise predictions in.
pub(crate) struct JobDoor<'a> {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) rank: Rank,
    pub(crate) choice: &'a Choice,
    pub(crate) settings: LoopSettings,
    pub(crate) denoiser: ActorRef<DenoiserMessage>,
}

impl<'a> Asked<'a> {
    fn new(worker: &'a WorkerHandle) -> Self {
        worker.0.asked.fetch_add(1, Ordering::Relaxed);
        Self(worker)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerHandle {
    pub(super) fn new(
        introduction: Introduction,
        session: ActorRef<SessionMessage>,
        link: LinkSender,
        admission: Arc<SessionAdmission>,
        routes: watch::Sender<Routes>,
    ) -> Self {
        Self(Arc::new(Inner {
            introduction,
            session,
            link,
            admission,
            routes,
            measurements: Measurements::default(),
            turnaround: Turnaround::default(),
            links: KnownLinks::default(),
            leaving: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            heard: watch::Sender::new(()),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.0.introduction.name
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.introduction.endpoint
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.0.introduction.hello.incarnation
    }

    pub(crate) fn session_id(&self) -> ActorId {
        self.0.session.get_id()
    }

    pub(crate) fn session(&self) -> &ActorRef<SessionMessage> {
        &self.0.session
    }

    pub(crate) fn link(&self) -> &LinkSender {
        &self.0.link
    }

    /// What it computes on.
    pub(crate) fn devices(&self) -> &[DeviceInfo] {
        &self.0.introduction.hello.devices
    }

    /// Whether the link is open: a lost worker's session may not have ended yet.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.link.close_reason().is_none()
    }

    /// Notes that something was heard of the worker.
    pub(super) fn note_heard(&self) {
        self.0.heard.send_replace(());
    }

    /// Waits until something more is heard of the worker. Never, if it is lost.
    pub(crate) async fn heard_again(&self) {
        let mut heard = self.0.heard.subscribe();
        // The sender lives in `self`. What comes while the link closes may have been said before the end.
        while heard.changed().await.is_ok() {
            if self.is_connected() {
                return;
            }
        }
    }

    /// Notes that the worker is to leave as soon as no job needs it.
    pub(crate) fn set_leaving(&self) {
        self.0.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the worker is to leave as soon as no job needs it.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// Whether it has a part in a job.
    pub(crate) fn is_serving(&self) -> bool {
        !self.0.routes.borrow().is_empty()
    }

    /// Whether the worker shares this machine: it is in this process or comes from a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        self.0.link.remote_address().is_none_or(|address| address.ip().is_loopback())
    }

    /// Memory that its devices may use.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.0.introduction.hello.devices.iter().map(|device| device.memory_bytes).sum()
    }

    /// The worker as users see it. `weights`: what it got, which the directory of parameters knows.
    pub(crate) fn record(&self, weights: WeightCounts) -> WorkerRecord {
        let routes = self.0.routes.borrow().clone();
        let mut parts: Vec<WorkerPart> = routes.values().map(|route| WorkerPart::clone(&route.part)).collect();
        parts.sort_by_key(|part| part.job);
        let Introduction { name, hello, endpoint } = &self.0.introduction;
        WorkerRecord {
            name: name.clone(),
            state: if self.is_leaving() {
                WorkerState::Leaving
            } else if parts.is_empty() {
                WorkerState::Ready
            } else {
                WorkerState::Working
            },
            parts,
            version: hello.version.clone(),
            devices: hello.devices.clone(),
            address: format!("{}:{}", endpoint.host, endpoint.control_port),
            process_id: hello.process_id,
            tensors: self.0.admission.counts(),
            weights,
        }
    }

    /// Whether somebody waits for something that it was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) > 0
    }

    /// Asks the worker for something and waits for its answer.
    pub(crate) async fn request(
        &self,
        what: &'static str,
        body: WorkerRequest,
        within: Duration,
    ) -> Result<WorkerReply, JobFailed> {
        let _asked = Asked::new(self);
        let answer = self.ask(body, within, None);
        self.answered(what, answer).await
    }

    /// The same for a request that is answered with a tensor too; the tensor may be waited for later.
    pub(crate) async fn request_tensor(
        &self,
        what: &'static str,
        body: WorkerRequest,
        tensor: TensorSpec,
        within: Duration,
    ) -> Result<(WorkerReply, TensorPromise), JobFailed> {
        let _asked = Asked::new(self);
        let (sender, promise) = oneshot::channel();
        let answer = self.ask(body, within, Some((tensor, sender)));
        Ok((self.answered(what, answer).await?, promise))
    }

    /// Waits for a promised tensor.
    pub(crate) async fn promised(
        &self,
        what: &'static str,
        promise: TensorPromise,
        within: Duration,
    ) -> Result<Bytes, JobFailed> {
        let _asked = Asked::new(self);
        let arrived = match tokio::time::timeout(within, promise).await {
            Ok(Ok(arrived)) => arrived,
            Ok(Err(_)) => Err(self.session_gone()),
            Err(_) => Err(RequestFailed::Overdue(within)),
        };
        arrived.map_err(|failed| self.job_failed(what, failed))
    }

    /// Asks the worker to forget a job, without waiting for how it went. For jobs that failed.
    pub(crate) fn release(&self, job: JobId, within: Duration) {
        // Nobody waits for the answer; the session drops it.
        drop(self.ask(WorkerRequest::ReleaseJob { job }, within, None));
    }

    /// Lets a job's noise predictions of an epoch in and sends them to its denoiser; those of older epochs are late from now on.
    pub(crate) fn open_job(&self, door: JobDoor<'_>) {
        let JobDoor { job, epoch, rank, choice, settings, denoiser } = door;
        self.0.admission.open_job(job, ExpectedOfJob::new(&choice.placed, rank, epoch, settings));
        let (runs, plan) = (runs_of(&choice.placed, rank), choice.reason.clone());
        let part = Arc::new(WorkerPart { job, rank: rank.0, runs, plan });
        self.change_routes(|routes| {
            routes.insert(job, Route { rank, part, denoiser });
        });
    }

    /// Lets nothing of a job in any more: what is still under way is late.
    pub(crate) fn close_job(&self, job: JobId) {
        self.0.admission.close_job(job);
        self.change_routes(|routes| {
            routes.remove(&job);
        });
    }

    /// Both: nothing of a job is let in any more, and the worker is to forget it.
    pub(crate) fn drop_job(&self, job: JobId, within: Duration) {
        self.close_job(job);
        self.release(job, within);
    }

    /// Tells the jobs that this worker serves that it is lost, and which newer session of its name takes its place, if one does.
    pub(crate) fn announce_loss(&self, reason: &str, successor: Option<&Self>) {
        for route in self.0.routes.borrow().values() {
            let (reason, successor) = (reason.to_owned(), successor.cloned());
            let message = DenoiserMessage::WorkerLost { worker: self.clone(), successor, reason };
            // A denoiser that has ended needs no worker.
            let _ = route.denoiser.send_message(message);
        }
    }

    /// The denoiser of a job that this worker serves.
    pub(super) fn denoiser(&self, job: JobId) -> Option<ActorRef<DenoiserMessage>> {
        self.0.routes.borrow().get(&job).map(|route| route.denoiser.clone())
    }

    /// What each layer costs, if it was measured in this session.
    pub(crate) fn measured(&self, denoiser: &DenoiserSpec, rows: u32) -> Option<Arc<[LayerCost]>> {
        self.0.measurements.find(denoiser, rows)
    }

    /// Keeps what was measured for further jobs.
    pub(crate) fn keep_measured(&self, denoiser: DenoiserSpec, rows: u32, costs: Arc<[LayerCost]>) {
        self.0.measurements.keep(denoiser, rows, costs);
    }

    /// Takes notice of how long layers took in a job, for so many rows: further jobs are planned by it.
    pub(crate) fn note_pace(&self, denoiser: &DenoiserSpec, rows: u32, taken: &[(LayerId, f64)]) {
        if let Some(factor) = self.0.measurements.correct(denoiser, rows, taken) {
            tracing::info!(worker = self.name(), factor, "layers took longer or shorter in a job than was measured");
        }
    }

    /// Seconds that its device waits at each step for the way through the coordinator.
    pub(crate) fn turnaround_seconds(&self) -> f64 {
        self.0.turnaround.seconds()
    }

    /// Takes notice of a job in which its device waited longer per step than was predicted; shorter if it is negative.
    pub(crate) fn note_turnaround(&self, longer_seconds: f64) {
        self.0.turnaround.note(longer_seconds);
    }

    /// What is known of the link to another worker, in this session and in its.
    pub(crate) fn link_to(&self, other: &Self) -> Option<KnownLink> {
        self.0.links.find(other.session_id())
    }

    /// Keeps what became known of the link to another worker for further jobs.
    pub(crate) fn keep_link_to(&self, other: &Self, link: KnownLink) {
        self.0.links.keep(other.session_id(), link);
    }

    fn ask(
        &self,
        body: WorkerRequest,
        within: Duration,
        tensor: Option<(TensorSpec, oneshot::Sender<Result<Bytes, RequestFailed>>)>,
    ) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        let request = NewRequest { body: Box::new(body), within, answer, tensor };
        // If the session has ended, the dropped sender says so.
        let _ = self.0.session.send_message(SessionMessage::Request(request));
        answered
    }

    async fn answered(&self, what: &'static str, answer: oneshot::Receiver<Answer>) -> Result<WorkerReply, JobFailed> {
        // The session bounds the wait; if it ends, it drops its side.
        let answer = answer.await.unwrap_or_else(|_| Err(self.session_gone()));
        answer.map_err(|failed| self.job_failed(what, failed))
    }

    fn session_gone(&self) -> RequestFailed {
        let reason = self.0.link.close_reason();
        RequestFailed::Lost(reason.map_or_else(|| "its session ended".to_owned(), |reason| reason.to_string()))
    }

    fn job_failed(&self, what: &'static str, failed: RequestFailed) -> JobFailed {
        let worker = self.name().to_owned();
        match failed {
            RequestFailed::Failed(failure) => JobFailed::WorkerFailed { worker, failure },
            RequestFailed::Lost(reason) => JobFailed::WorkerLost { worker, reason },
            RequestFailed::Overdue(within) => JobFailed::RequestOverdue { worker, what, within },
        }
    }

    fn change_routes(&self, change: impl FnOnce(&mut HashMap<JobId, Route>)) {
        self.0.routes.send_modify(|routes| change(Arc::make_mut(routes)));
    }
}
