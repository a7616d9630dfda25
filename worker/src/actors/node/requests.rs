//! Requests: short ones are answered at once, long ones by a task of their own.

use std::sync::Arc;

use asyncdiff_common::wire::{Endpoint, WorkerFailure, WorkerRequest};
use asyncdiff_plan::JobId;
use asyncdiff_transport::WorkerName;

use super::{NodeMessage, NodeState};
use crate::requests::{
    DECODE_DEADLINE, DecodeLatents, ENCODE_DEADLINE, EncodeText, MEASURE_DEADLINE, MEASURE_LINK_DEADLINE,
    MeasureLayers, MeasureLink, RequestResult, Tools, decode_latents, encode_text, measure_layers, measure_link,
    with_deadline,
};
use crate::weights::Collector;
use asyncdiff_common::owned_task::OwnedTask;

/// Requests that run at a time. A coordinator has a few per job; more is a mistake of its.
const REQUESTS_MAX: usize = 64;

/// A request with a task of its own.
pub(super) struct RunningRequest {
    job: Option<JobId>,
    _task: OwnedTask,
}

impl NodeState {
    pub(super) fn handle_request(&mut self, session: u64, request: u64, body: WorkerRequest) {
        if !self.may_run(session, request) {
            return;
        }
        match body {
            WorkerRequest::Assign(assignment) => self.assign(request, *assignment),
            WorkerRequest::DecodeLatents { job, step, shape, model } => {
                self.decode(DecodeLatents { job, request, step, shape, model });
            }
            WorkerRequest::EncodeText { job, tokens, model } => {
                let order = EncodeText { job, request, tokens, model };
                let work = |tools| with_deadline("encoding text", ENCODE_DEADLINE, encode_text(tools, order));
                self.run_request(request, Some(job), work);
            }
            WorkerRequest::Measure { denoiser, rows, layers } => {
                let order = MeasureLayers { denoiser, rows, layers };
                let work = |tools| with_deadline("measuring layers", MEASURE_DEADLINE, measure_layers(tools, order));
                self.run_request(request, None, work);
            }
            // Handled by the caller.
            WorkerRequest::MeasureLink { .. } => {}
            WorkerRequest::Preload(assignment) => self.preload(request, *assignment),
            WorkerRequest::ReleaseJob { job } => self.release_job(request, job),
        }
    }

    /// Whether a request is of this session and there is room for it; if there is none, who asked hears so.
    pub(super) fn may_run(&self, session: u64, request: u64) -> bool {
        if self.session.as_ref().is_none_or(|current| current.number != session) {
            return false;
        }
        let has_room = self.requests.len() < REQUESTS_MAX;
        if !has_room {
            let reason = format!("{REQUESTS_MAX} requests are running already");
            self.refuse(request, WorkerFailure::Unexpected { reason });
        }
        has_room
    }

    /// Dials the peer if there is no link to it yet, and measures the link.
    pub(super) async fn measure_link(&mut self, request: u64, peer: &str, endpoint: &Endpoint) {
        let name = match WorkerName::new(peer) {
            Ok(name) => name,
            Err(error) => return self.refuse(request, WorkerFailure::BadAssignment { reason: error.to_string() }),
        };
        if let Err(error) = self.ensure_peer(&name, endpoint).await {
            let message = format!("an actor cannot be started: {error}");
            return self.refuse(request, WorkerFailure::Panicked { message });
        }
        let Some(link) = self.peers.watch(&name) else { return };
        let what = format!("measuring the link to worker {name}");
        let order = MeasureLink { peer: name, link, processor_time: self.processor_time };
        let work = async move { with_deadline(&what, MEASURE_LINK_DEADLINE, measure_link(order)).await };
        self.run_request(request, None, |_| work);
    }

    pub(super) fn handle_request_ended(&mut self, session: u64, request: u64) {
        if self.session.as_ref().is_some_and(|current| current.number == session) {
            self.requests.remove(&request);
        }
    }

    pub(super) fn refuse(&self, request: u64, failure: WorkerFailure) {
        if let Some(session) = &self.session {
            session.reply(request, Err(failure));
        }
    }

    /// Ends what runs for a job; who asked hears so.
    pub(super) fn end_requests_of(&mut self, job: JobId) {
        let ended: Vec<u64> =
            self.requests.iter().filter(|(_, running)| running.job == Some(job)).map(|(id, _)| *id).collect();
        for request in ended {
            self.requests.remove(&request);
            self.reply_released(request);
        }
    }

    fn run_request<W>(&mut self, request: u64, job: Option<JobId>, work: impl FnOnce(Tools) -> W)
    where
        W: Future<Output = RequestResult> + Send + 'static,
    {
        let Some((tools, ended)) = self.tools(request) else { return };
        let session = tools.session.clone();
        let task = OwnedTask::spawn_reporting(work(tools), move |result| {
            session.reply(request, result.unwrap_or_else(|message| Err(WorkerFailure::Panicked { message })));
            ended();
        });
        self.requests.insert(request, RunningRequest { job, _task: task });
    }

    /// Decoding is answered in its middle; what fails after that is answered once more.
    fn decode(&mut self, order: DecodeLatents) {
        let (request, job) = (order.request, order.job);
        let Some((tools, ended)) = self.tools(request) else { return };
        let session = tools.session.clone();
        let work = async move {
            let what = "waiting for final latents and decoding them".to_owned();
            let overdue = |_| Err(WorkerFailure::TimedOut { what, seconds: DECODE_DEADLINE.as_secs() });
            tokio::time::timeout(DECODE_DEADLINE, decode_latents(tools, order)).await.unwrap_or_else(overdue)
        };
        let task = OwnedTask::spawn_reporting(work, move |result| {
            if let Err(failure) = result.unwrap_or_else(|message| Err(WorkerFailure::Panicked { message })) {
                tracing::warn!(%job, %failure, "decoding failed");
                session.reply(request, Err(failure));
            }
            ended();
        });
        self.requests.insert(request, RunningRequest { job: Some(job), _task: task });
    }

    fn tools(&self, request: u64) -> Option<(Tools, impl FnOnce() + Send + 'static)> {
        let session = self.session.clone()?;
        let (number, node) = (session.number, self.myself.clone());
        let ended = move || {
            // Fails only when the worker is stopping.
            drop(node.cast(NodeMessage::RequestEnded { session: number, request }));
        };
        let (intake, local) = (Arc::clone(&self.intake), self.local.clone());
        let collector = Collector { intake, session: session.clone(), local, beginning: self.incarnation };
        Some((Tools { device: self.device.clone(), collector, session }, ended))
    }
}
