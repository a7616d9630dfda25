//! What the actor does at each message.

use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{Endpoint, Hello, ToCoordinator, ToWorker};
use asyncdiff_plan::JobId;
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{Farewell, LinkError, LinkSender, Misbehaviour};
use bytes::Bytes;
use ractor::ActorRef;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::actor::{Ending, SessionMessage};
use super::handle::{Introduction, WorkerHandle};
use super::requests::{NewRequest, Outstanding, RequestFailed};
use super::tensors::Routes;
use super::weights::{SessionWeights, WantedWeights};
use super::{SessionAdmission, TensorSpec};
use crate::actors::Limits;
use crate::actors::denoiser::DenoiserMessage;
use crate::actors::membership::MembershipMessage;
use asyncdiff_common::owned_task::OwnedTask;

/// What the actor knows of its worker.
pub(crate) struct SessionState {
    peer: PeerName,
    link: LinkSender,
    admission: Arc<SessionAdmission>,
    membership: ActorRef<MembershipMessage>,
    limits: Limits,
    stage: Stage,
    outstanding: Outstanding,
    pub(super) weights: SessionWeights,
    heard: Instant,
    ticked: Instant,
    /// Until the worker introduces itself.
    routes: Option<watch::Sender<Routes>>,
    span: tracing::Span,
    _tasks: [OwnedTask; 3],
}

enum Stage {
    /// Waiting for the worker's `Hello`.
    Silent,
    /// Membership decides about it, or has taken it in.
    Introduced(WorkerHandle),
    /// Over.
    Ended,
}

/// What a session takes along from its arguments.
pub(super) struct SessionParts {
    pub(super) peer: PeerName,
    pub(super) link: LinkSender,
    pub(super) admission: Arc<SessionAdmission>,
    pub(super) membership: ActorRef<MembershipMessage>,
    pub(super) limits: Limits,
    pub(super) weights: SessionWeights,
}

impl SessionState {
    /// `routes`: handed to the worker's handle when it introduces itself. `tasks`: end with the session.
    pub(super) fn new(parts: SessionParts, routes: watch::Sender<Routes>, tasks: [OwnedTask; 3]) -> Self {
        let SessionParts { peer, link, admission, membership, limits, weights } = parts;
        let (span, now) = (tracing::info_span!("session", worker = %peer), Instant::now());
        Self {
            peer,
            link,
            admission,
            membership,
            limits,
            stage: Stage::Silent,
            outstanding: Outstanding::default(),
            weights,
            heard: now,
            ticked: now,
            routes: Some(routes),
            span,
            _tasks: tasks,
        }
    }

    pub(super) fn span(&self) -> tracing::Span {
        self.span.clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Ended)
    }

    pub(super) fn handle_welcome(&mut self, myself: &ActorRef<SessionMessage>) {
        self.heard = Instant::now();
        let heartbeat_interval = self.limits.heartbeat_interval;
        self.send(myself, &ToWorker::Welcome { heartbeat_interval });
    }

    pub(super) fn handle_garbled(&mut self, myself: &ActorRef<SessionMessage>, reason: &str) {
        let misbehaviour = Misbehaviour::malformed("control message", reason);
        self.end(myself, &misbehaviour.to_string(), Farewell::Misbehaviour(misbehaviour.clone()));
    }

    pub(super) fn handle_link_closed(&mut self, myself: &ActorRef<SessionMessage>, reason: &str) {
        self.end(myself, reason, Farewell::Done);
    }

    pub(super) fn handle_tensor(&mut self, request: u64, payload: Bytes) {
        self.admission.forget_reply(request);
        self.outstanding.tensor(request, payload);
    }

    pub(super) fn handle_control(&mut self, myself: &ActorRef<SessionMessage>, message: ToCoordinator) {
        self.heard = Instant::now();
        if let Stage::Introduced(handle) = &self.stage {
            handle.note_heard();
        }
        match (message, &self.stage) {
            (ToCoordinator::Hello(hello), Stage::Silent) => self.introduce(myself, hello),
            (ToCoordinator::Heartbeat { sequence }, Stage::Introduced(_)) => tracing::trace!(sequence, "heartbeat"),
            (ToCoordinator::Reply { request, result }, Stage::Introduced(_)) => {
                if result.is_err() {
                    self.admission.forget_reply(request);
                }
                if !self.outstanding.answer(request, result) {
                    tracing::debug!(request, "an answer came that nobody waits for any more");
                }
            }
            (ToCoordinator::WantWeights { job, ticket, digests, instead_of }, Stage::Introduced(_)) => {
                self.handle_want_weights(myself, WantedWeights { job, ticket, digests, instead_of });
            }
            (ToCoordinator::HoldsWeights { digests }, Stage::Introduced(handle)) => {
                self.weights.directory.note_held(handle.name(), &digests);
            }
            (ToCoordinator::WeightsArrived { ticket }, Stage::Introduced(handle)) => {
                self.weights.directory.note_arrived(handle.name(), ticket);
            }
            (ToCoordinator::JobFailed { job, epoch, failure }, Stage::Introduced(handle)) => {
                tracing::info!(%job, %epoch, %failure, "job failed at the worker");
                if let Some(denoiser) = handle.denoiser(job) {
                    let failed = DenoiserMessage::WorkerFailed { worker: handle.clone(), epoch, failure };
                    // A denoiser that has ended knows already that its job has failed.
                    let _ = denoiser.send_message(failed);
                }
            }
            (ToCoordinator::WantsToLeave { reason }, Stage::Introduced(handle)) => {
                tracing::info!(reason, "the worker is to leave");
                let leaving = MembershipMessage::Drain { name: handle.name().to_owned(), reply: None };
                // Membership ends with the coordinator.
                let _ = self.membership.send_message(leaving);
            }
            (ToCoordinator::Leaving { reason }, _) => self.end(myself, &format!("it left: {reason}"), Farewell::Done),
            (_, Stage::Silent | Stage::Introduced(_)) => {
                self.end(myself, "its messages came in the wrong order", out_of_order());
            }
            (_, Stage::Ended) => {}
        }
    }

    fn introduce(&mut self, myself: &ActorRef<SessionMessage>, hello: Hello) {
        let Some(routes) = self.routes.take() else { return };
        let endpoint = reachable(&hello.endpoint, &self.link);
        let introduction = Introduction { name: self.name(), hello, endpoint };
        let (link, admission) = (self.link.clone(), Arc::clone(&self.admission));
        let handle = WorkerHandle::new(introduction, myself.clone(), link, admission, routes);
        self.stage = Stage::Introduced(handle.clone());
        if self.membership.send_message(MembershipMessage::Introduced(handle)).is_err() {
            self.end(myself, "the coordinator ends", Farewell::Done);
        }
    }

    pub(super) fn handle_request(&mut self, myself: &ActorRef<SessionMessage>, request: NewRequest) {
        let NewRequest { body, within, answer, tensor } = request;
        let (spec, tensor): (Option<TensorSpec>, Option<oneshot::Sender<_>>) = tensor.unzip();
        let number = self.outstanding.add(&body, within, answer, tensor);
        if let Some(spec) = spec {
            self.admission.expect_reply(number, spec);
        }
        self.weights.note_listed(&body);
        self.send(myself, &ToWorker::Request { request: number, body });
    }

    pub(super) fn handle_tick(&mut self, myself: &ActorRef<SessionMessage>) {
        let now = Instant::now();
        // A gap between ticks means that this process stood still (a laptop's lid, a debugger): that is no fault of the
        // worker.
        if now.duration_since(self.ticked) > self.limits.lost_after / 2 {
            self.heard = now;
        }
        self.ticked = now;
        for number in self.outstanding.expire(now) {
            self.admission.forget_reply(number);
        }
        if self.may_leave() {
            let reason = "no job needs it any more".to_owned();
            self.send(myself, &ToWorker::MayLeave { reason });
            return self.end(myself, "it left: no job needed it any more", Farewell::Done);
        }
        let silence = now.duration_since(self.heard);
        let limit = match self.stage {
            Stage::Silent => self.limits.hello_within,
            Stage::Introduced(_) => self.limits.lost_after,
            Stage::Ended => return,
        };
        if silence > limit {
            let reason = format!("no sign of life for {silence:.1?}");
            self.end(myself, &reason, Farewell::failed(&reason));
        }
    }

    /// Whether the worker is to leave and nobody needs it: it has no part in a job, and nothing is asked of it.
    fn may_leave(&self) -> bool {
        let Stage::Introduced(handle) = &self.stage else { return false };
        handle.is_leaving() && !handle.is_serving() && self.outstanding.is_empty()
    }

    pub(super) fn handle_end(&mut self, myself: &ActorRef<SessionMessage>, reason: String, ending: Ending) {
        let said = reason.clone();
        let message = match ending {
            Ending::Goodbye => ToWorker::Goodbye { reason: said },
            Ending::Refused => ToWorker::Refused { reason: said },
        };
        self.send(myself, &message);
        self.end(myself, &reason, Farewell::Done);
    }

    pub(super) fn fail_requests(&mut self, job: JobId, why: &RequestFailed) {
        for number in self.outstanding.fail_job(job, why) {
            self.admission.forget_reply(number);
        }
    }

    /// Sends a control message. A worker whose queue is full does not listen any more.
    pub(super) fn send(&mut self, myself: &ActorRef<SessionMessage>, message: &ToWorker) {
        let bytes = match codec::encode(message) {
            Ok(bytes) => bytes,
            Err(error) => return self.end(myself, &error.to_string(), Farewell::failed(&error.to_string())),
        };
        match self.link.try_send_control(bytes.into()) {
            // The receiving task reports the link's end with its reason.
            Ok(()) | Err(LinkError::Closed(_)) => {}
            Err(error) => self.end(myself, &error.to_string(), Farewell::failed(&error.to_string())),
        }
    }

    /// Ends the session: everybody who counts on the worker hears of it at once.
    pub(super) fn end(&mut self, myself: &ActorRef<SessionMessage>, reason: &str, farewell: Farewell) {
        let stage = std::mem::replace(&mut self.stage, Stage::Ended);
        tracing::info!(reason, "session ended");
        // First of all, so that nobody who hears of the loss takes the worker for a live one.
        self.link.close(farewell);
        self.outstanding.fail_all(&RequestFailed::Lost(reason.to_owned()));
        if let Stage::Introduced(handle) = stage {
            handle.announce_loss(reason, None);
        }
        myself.stop(Some(reason.to_owned()));
    }

    pub(super) fn name(&self) -> String {
        match &self.peer {
            PeerName::Worker(name) => name.to_string(),
            PeerName::Coordinator => self.peer.to_string(),
        }
    }
}

pub(super) fn out_of_order() -> Farewell {
    Farewell::Misbehaviour(Misbehaviour::malformed("control message", "a message came in the wrong place"))
}

/// Where other workers reach a worker: at the address that the coordinator sees if the operator named none.
fn reachable(endpoint: &Endpoint, link: &LinkSender) -> Endpoint {
    let mut endpoint = endpoint.clone();
    if let (true, Some(address)) = (endpoint.host.is_empty(), link.remote_address()) {
        endpoint.host = address.ip().to_string();
    }
    endpoint
}
