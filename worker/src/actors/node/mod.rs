//! The root actor: takes requests, owns the jobs and what is loaded, and decides what becomes of a job when something below it ends.

mod accept;
mod jobs;
mod loading;
mod peers;
mod requests;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::sync::Arc;

use asyncdiff_common::wire::{Endpoint, ToCoordinator, WorkerFailure, WorkerRequest};
use asyncdiff_model::checkpoint::StoredTensor;
use asyncdiff_model::component::Component as LoadedComponent;
use asyncdiff_plan::{ComponentId, Epoch, JobId};
use asyncdiff_transport::WorkerName;
use asyncdiff_transport::network::Network;
use asyncdiff_transport::weights::WeightServer;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::SessionRef;
use super::control_session::{ControlSession, SessionArguments, SessionMessage};
use crate::assignment::{CheckedAssignment, ComponentKey};
use crate::config::Membership;
use crate::device::{DeviceHandle, JobOutcome};
use crate::error::WorkerError;
use crate::intake::{Digest, Intake};
use crate::probing::{PeerPath, ProcessorTime};
use crate::weights::LocalWeights;
use asyncdiff_common::owned_task::OwnedTask;
use jobs::NodeJob;
pub(crate) use peers::PeerState;
use peers::Peers;
use requests::RunningRequest;

/// The worker.
///
/// Started by [`run`](crate::run), which ends it. It ends its children, its tasks and, with the last handle, the device.
pub(crate) struct Node;

pub(crate) struct NodeArguments {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) coordinator: Vec<Endpoint>,
    pub(crate) device: DeviceHandle,
    pub(crate) local: LocalWeights,
    pub(crate) weights_bytes_per_second: Option<NonZeroU64>,
    pub(crate) membership: Option<watch::Sender<Membership>>,
    pub(crate) incarnation: u64,
    pub(crate) processor_time: ProcessorTime,
    /// Told when the worker is not needed any more, or cannot go on.
    pub(crate) ended: oneshot::Sender<Result<(), WorkerError>>,
}

pub(crate) enum NodeMessage {
    /// The coordinator says that another worker has parameters.
    AskPeer { ticket: u64, peer: String, endpoint: Endpoint, digests: Vec<Digest> },
    /// An assignment took too long.
    AssignOverdue { job: JobId, epoch: Epoch },
    /// An assignment makes sense, or not.
    Checked { job: JobId, epoch: Epoch, result: Result<Box<CheckedAssignment>, WorkerFailure> },
    /// The parameters of an assignment are there, or not.
    Collected { job: JobId, epoch: Epoch, result: Result<HashMap<String, StoredTensor>, WorkerFailure> },
    /// A component is loaded.
    ComponentLoaded { job: JobId, epoch: Epoch, component: ComponentId, loaded: Arc<LoadedComponent> },
    /// A job finished or failed on the device.
    JobEnded { job: JobId, epoch: Epoch, outcome: JobOutcome },
    /// The worker is to leave the cluster.
    Leave { reason: String, left: oneshot::Sender<()> },
    /// No job needs the worker any more.
    MayLeave { reason: String },
    /// A peer dialled this worker.
    PeerAccepted { peer: WorkerName, link: u64 },
    /// A link to a peer is open.
    PeerConnected { peer: WorkerName, link: u64, path: PeerPath },
    /// A link to or from a peer has ended or never came to be.
    PeerLost { peer: WorkerName, link: u64, reason: String },
    /// The coordinator asks for something.
    Request { session: u64, request: u64, body: Box<WorkerRequest> },
    /// A request's task has ended.
    RequestEnded { session: u64, request: u64 },
    /// The worker cannot be a member.
    SessionEnded(WorkerError),
    /// The coordinator is gone, for now.
    SessionLost { session: u64 },
    /// The coordinator has welcomed this worker.
    SessionOpened(SessionRef),
    /// The worker is to leave as soon as no job needs it.
    WantToLeave { reason: String },
}

pub(crate) struct NodeState {
    myself: ActorRef<NodeMessage>,
    network: Arc<dyn Network>,
    device: DeviceHandle,
    processor_time: ProcessorTime,
    local: LocalWeights,
    incarnation: u64,
    intake: Arc<Intake>,
    control: ActorRef<SessionMessage>,
    session: Option<SessionRef>,
    jobs: BTreeMap<JobId, NodeJob>,
    /// Assignments to come, whose components are loaded while an older one of the job goes on.
    preloads: BTreeMap<JobId, NodeJob>,
    /// Which job a component's actor belongs to.
    components: HashMap<ActorId, (JobId, Epoch)>,
    /// Components that are loaded, for running jobs or for the next one.
    loaded: Vec<(ComponentKey, Arc<LoadedComponent>)>,
    peers: Peers,
    requests: HashMap<u64, RunningRequest>,
    /// Short tasks that end by themselves, such as asking the device how a job went.
    chores: JoinSet<()>,
    ended: Option<oneshot::Sender<Result<(), WorkerError>>>,
    /// The worker is to leave, and why.
    leaving: Option<String>,
    span: tracing::Span,
    _accepting: OwnedTask,
}

impl Actor for Node {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = NodeArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<NodeMessage>,
        arguments: NodeArguments,
    ) -> Result<NodeState, ActorProcessingErr> {
        let NodeArguments { network, coordinator, device, local, weights_bytes_per_second, .. } = arguments;
        let NodeArguments { membership, incarnation, processor_time, ended, .. } = arguments;
        let intake = Intake::new(device.to_doorstep());
        let session = SessionArguments {
            network: Arc::clone(&network),
            coordinator,
            intake: Arc::clone(&intake),
            device: device.clone(),
            node: myself.clone(),
            incarnation,
            membership,
        };
        let (control, _) = ControlSession::spawn_linked(None, ControlSession, session, myself.get_cell()).await?;
        let peers = Peers::default();
        let accepting = accept::Accepting {
            network: Arc::clone(&network),
            intake: Arc::clone(&intake),
            device: device.clone(),
            node: myself.clone(),
            numbers: peers.numbers(),
            weights: Arc::new(WeightServer::start(Arc::new(local.clone()), weights_bytes_per_second)),
        };
        Ok(NodeState {
            myself,
            network,
            device,
            processor_time,
            local,
            incarnation,
            intake,
            control,
            session: None,
            jobs: BTreeMap::new(),
            preloads: BTreeMap::new(),
            components: HashMap::new(),
            loaded: Vec::new(),
            peers,
            requests: HashMap::new(),
            chores: JoinSet::new(),
            ended: Some(ended),
            leaving: None,
            span: tracing::info_span!("worker"),
            _accepting: OwnedTask::spawn(accepting.run()),
        })
    }

    async fn handle(
        &self,
        _myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        // Actors that a handler starts belong to this worker's lines of the log too.
        let span = state.span.clone();
        let handled = async {
            match message {
                NodeMessage::Checked { job, epoch, result } => state.handle_checked(job, epoch, result).await,
                NodeMessage::Collected { job, epoch, result } => state.handle_collected(job, epoch, result).await,
                NodeMessage::AskPeer { ticket, peer, endpoint, digests } => {
                    state.redirect(ticket, &peer, &endpoint, digests).await;
                }
                NodeMessage::Request { session, request, body } => match *body {
                    WorkerRequest::MeasureLink { peer, endpoint } if state.may_run(session, request) => {
                        state.measure_link(request, &peer, &endpoint).await;
                    }
                    body => state.handle_request(session, request, body),
                },
                other => state.handle_now(other),
            }
        };
        handled.instrument(span).await;
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let _span = state.span.clone().entered();
        match event {
            SupervisionEvent::ActorFailed(actor, error) => state.handle_actor_failed(actor.get_id(), error),
            SupervisionEvent::ActorTerminated(actor, _, _) => {
                state.components.remove(&actor.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl NodeState {
    /// Messages whose handlers start no actor.
    fn handle_now(&mut self, message: NodeMessage) {
        // Finished chores are forgotten as new things happen, so that the set stays small.
        while self.chores.try_join_next().is_some() {}
        match message {
            NodeMessage::AssignOverdue { job, epoch } => self.handle_assign_overdue(job, epoch),
            NodeMessage::ComponentLoaded { job, epoch, component, loaded } => {
                self.handle_loaded(job, epoch, component, loaded);
            }
            NodeMessage::JobEnded { job, epoch, outcome } => self.handle_job_ended(job, epoch, outcome),
            NodeMessage::Leave { reason, left } => self.handle_leave(reason, left),
            NodeMessage::MayLeave { reason } => {
                tracing::info!(reason, "no job needs this worker any more");
                self.end(Ok(()));
            }
            NodeMessage::PeerAccepted { peer, link } => self.peers.accepted(peer, link),
            NodeMessage::PeerConnected { peer, link, path } => self.handle_peer_connected(&peer, link, path),
            NodeMessage::PeerLost { peer, link, reason } => self.handle_peer_lost(&peer, link, &reason),
            NodeMessage::RequestEnded { session, request } => self.handle_request_ended(session, request),
            NodeMessage::SessionEnded(error) => self.end(Err(error)),
            NodeMessage::SessionLost { session } => self.handle_session_lost(session),
            NodeMessage::SessionOpened(session) => self.handle_session_opened(session),
            NodeMessage::WantToLeave { reason } => self.handle_want_to_leave(reason),
            // Handled by the caller.
            NodeMessage::AskPeer { .. }
            | NodeMessage::Checked { .. }
            | NodeMessage::Collected { .. }
            | NodeMessage::Request { .. } => {}
        }
    }

    /// Tells a new session what others can have of this worker; the coordinator may be another one than before.
    fn handle_session_opened(&mut self, session: SessionRef) {
        self.session = Some(session.clone());
        let local = self.local.clone();
        self.chores.spawn(async move {
            // Reads folders. Without a cache or a checkpoint it does nothing, and a panic costs transfers from the coordinator.
            let digests = tokio::task::spawn_blocking(move || local.inventory()).await.unwrap_or_default();
            if !digests.is_empty() {
                session.send(ToCoordinator::HoldsWeights { digests });
            }
        });
    }

    /// The jobs are the coordinator's: without it they are over here. What is loaded stays for the next one.
    fn handle_session_lost(&mut self, session: u64) {
        if self.session.as_ref().is_some_and(|current| current.number == session) {
            self.session = None;
            self.drop_all_jobs();
            if self.leaving.is_some() {
                self.end(Ok(()));
            }
        }
    }

    /// The coordinator moves what this worker does for jobs and then lets it go; without a coordinator nobody needs it.
    fn handle_want_to_leave(&mut self, reason: String) {
        match &self.session {
            Some(session) => session.send(ToCoordinator::WantsToLeave { reason: reason.clone() }),
            None => self.end(Ok(())),
        }
        self.leaving = Some(reason);
    }

    fn handle_leave(&mut self, reason: String, left: oneshot::Sender<()>) {
        self.session = None;
        self.drop_all_jobs();
        // Fails only if the session's actor is gone; then `left` is dropped, which is an answer too.
        drop(self.control.cast(SessionMessage::Leave { reason, left }));
    }

    fn handle_actor_failed(&mut self, actor: ActorId, error: ActorProcessingErr) {
        if let Some((job, epoch)) = self.components.remove(&actor) {
            self.handle_component_failed(job, epoch, error);
        } else if actor == self.control.get_id() {
            self.end(Err(WorkerError::Bug { part: "control session", reason: error.to_string() }));
        } else if let Some((peer, link)) = self.peers.of_actor(actor) {
            self.handle_peer_lost(&peer, link, &format!("its actor failed: {error}"));
        }
    }

    fn drop_all_jobs(&mut self) {
        self.requests.clear();
        while let Some((&job, _)) = self.jobs.iter().next() {
            self.drop_job(job);
        }
        while let Some((&job, _)) = self.preloads.iter().next() {
            self.drop_preload(job);
        }
    }

    fn send(&self, message: ToCoordinator) {
        if let Some(session) = &self.session {
            session.send(message);
        }
    }

    fn end(&mut self, result: Result<(), WorkerError>) {
        // Only the first reason counts; whoever started the worker ends it now.
        if let Some(ended) = self.ended.take() {
            drop(ended.send(result));
        }
    }
}
