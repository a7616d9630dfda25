//! The way to the coordinator: dials it, introduces this worker, beats, and dials again when the link is lost.
//!
//! ```text
//!   Searching ── Dialled ──► Greeting (Hello sent) ── Welcome ──► Member (beats; requests come in)
//!       ▲                        │ link lost, no answer               │ link lost, Goodbye
//!       └──── Redial, after a pause that doubles ◄────────────────────┘
//!   Refused, superseded ──► Ended: the worker ends with an error
//! ```

mod dial;
mod link;

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{Endpoint, Hello, ToCoordinator, ToWorker};
use asyncdiff_transport::link::{CloseReason, Farewell, Link, LinkSender, Misbehaviour};
use asyncdiff_transport::network::{DialError, Network};
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::{NodeMessage, SessionRef};
use crate::config::Membership;
use crate::device::DeviceHandle;
use crate::error::WorkerError;
use crate::intake::Intake;
use asyncdiff_common::owned_task::OwnedTask;
use link::OpenLink;

/// How long the coordinator may take to answer `Hello`.
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);

/// The shortest and longest pause between two beats that are taken from the coordinator: a shorter one would be a flood, a longer one
/// is more than any coordinator waits.
const HEARTBEAT_BOUNDS: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(10)];

/// The session with the coordinator.
///
/// Started by the Node and ends with it. What is sent in a session that has been lost is dropped.
pub(super) struct ControlSession;

pub(super) struct SessionArguments {
    pub(super) network: Arc<dyn Network>,
    pub(super) coordinator: Vec<Endpoint>,
    pub(super) intake: Arc<Intake>,
    pub(super) device: DeviceHandle,
    pub(super) node: ActorRef<NodeMessage>,
    pub(super) incarnation: u64,
    pub(super) membership: Option<watch::Sender<Membership>>,
}

pub(crate) enum SessionMessage {
    /// It is time to say that this actor lives.
    Beat { number: u64 },
    /// The coordinator answered a dial, or not.
    Dialled(Result<Link, DialError>),
    /// The coordinator said something. The permit bounds how many wait here.
    Frame { number: u64, frame: Bytes, permit: OwnedSemaphorePermit },
    /// Say goodbye and close.
    Leave { reason: String, left: oneshot::Sender<()> },
    /// The link has closed.
    LinkClosed { number: u64, reason: CloseReason },
    /// Try again.
    Redial,
    /// Send a message.
    Send { number: u64, message: Box<ToCoordinator> },
    /// The coordinator has not answered `Hello`.
    WelcomeOverdue { number: u64 },
}

pub(super) struct SessionState {
    arguments: SessionArguments,
    stage: Stage,
    /// Counts links.
    number: u64,
    /// Dials without a welcome in between.
    attempts: u32,
    sequence: u64,
    span: tracing::Span,
}

enum Stage {
    Ended,
    Greeting(OpenLink),
    Member(OpenLink),
    /// The task dials or waits for the next attempt.
    Searching {
        _task: OwnedTask,
    },
}

impl Actor for ControlSession {
    type Msg = SessionMessage;
    type State = SessionState;
    type Arguments = SessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<SessionState, ActorProcessingErr> {
        let span = tracing::info_span!("control_session");
        let mut state = SessionState { arguments, stage: Stage::Ended, number: 0, attempts: 0, sequence: 0, span };
        state.dial(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        let _span = state.span.clone().entered();
        match message {
            SessionMessage::Beat { number } => state.handle_beat(number),
            SessionMessage::Dialled(dialled) => state.handle_dialled(&myself, dialled),
            SessionMessage::Frame { number, frame, permit } => {
                state.handle_frame(&myself, number, &frame);
                drop(permit);
            }
            SessionMessage::Leave { reason, left } => state.handle_leave(reason, left),
            SessionMessage::LinkClosed { number, reason } => state.handle_closed(&myself, number, &reason),
            SessionMessage::Redial => state.dial(&myself),
            SessionMessage::Send { number, message } => state.send(number, &message),
            SessionMessage::WelcomeOverdue { number } => state.handle_welcome_overdue(&myself, number),
        }
        Ok(())
    }
}

impl SessionState {
    fn dial(&mut self, myself: &ActorRef<SessionMessage>) {
        let (network, intake) = (Arc::clone(&self.arguments.network), Arc::clone(&self.arguments.intake));
        let (endpoints, myself) = (self.arguments.coordinator.clone(), myself.clone());
        let task = OwnedTask::spawn(async move {
            let dialled = dial::dial_any(&*network, &endpoints, intake).await;
            // Fails only when the worker is stopping.
            drop(myself.cast(SessionMessage::Dialled(dialled)));
        });
        self.stage = Stage::Searching { _task: task };
    }

    fn handle_dialled(&mut self, myself: &ActorRef<SessionMessage>, dialled: Result<Link, DialError>) {
        if !matches!(self.stage, Stage::Searching { .. }) {
            return;
        }
        match dialled {
            Ok(link) => self.greet(myself, link),
            Err(DialError::Refused { reason, .. }) => self.end(WorkerError::Refused { reason }),
            Err(error @ DialError::Unreachable { .. }) => self.search_again(myself, &error.to_string()),
        }
    }

    fn greet(&mut self, myself: &ActorRef<SessionMessage>, link: Link) {
        self.number += 1;
        let arguments = &self.arguments;
        let hello = Hello {
            incarnation: arguments.incarnation,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices: vec![arguments.device.info().clone()],
            endpoint: arguments.network.endpoint(),
            process_id: std::process::id(),
        };
        let readers = link::Readers {
            number: self.number,
            session: myself.clone(),
            intake: Arc::clone(&arguments.intake),
            device: arguments.device.clone(),
        };
        self.stage = Stage::Greeting(OpenLink::new(link, readers, WELCOME_DEADLINE));
        self.send(self.number, &ToCoordinator::Hello(hello));
    }

    fn handle_frame(&mut self, myself: &ActorRef<SessionMessage>, number: u64, frame: &[u8]) {
        let Some(link) = self.link(number) else { return };
        let message = match codec::decode::<ToWorker>(frame) {
            Ok(message) => message,
            Err(error) => {
                let misbehaviour = Misbehaviour::malformed("control message", &error.to_string());
                return link.close(Farewell::Misbehaviour(misbehaviour));
            }
        };
        match message {
            ToWorker::Welcome { heartbeat_interval } => self.handle_welcome(myself, heartbeat_interval),
            ToWorker::Refused { reason } => self.end(WorkerError::Refused { reason }),
            ToWorker::Request { request, body } if matches!(self.stage, Stage::Member(_)) => {
                self.tell_node(NodeMessage::Request { session: number, request, body });
            }
            ToWorker::Request { .. } => {
                let misbehaviour = Misbehaviour::malformed("control message", "a request before the welcome");
                link.close(Farewell::Misbehaviour(misbehaviour));
            }
            ToWorker::AskPeer { ticket, peer, endpoint, digests } => {
                self.tell_node(NodeMessage::AskPeer { ticket, peer, endpoint, digests });
            }
            ToWorker::MayLeave { reason } => {
                link.close(Farewell::Done);
                self.stage = Stage::Ended;
                self.tell_membership(Membership::Joining);
                self.tell_node(NodeMessage::MayLeave { reason });
            }
            ToWorker::Goodbye { reason } => {
                link.close(Farewell::Done);
                self.lose(myself, &format!("the coordinator says goodbye: {reason}"));
            }
        }
    }

    fn handle_welcome(&mut self, myself: &ActorRef<SessionMessage>, interval: Duration) {
        let Stage::Greeting(mut link) = std::mem::replace(&mut self.stage, Stage::Ended) else {
            return tracing::debug!("welcomed twice");
        };
        let [shortest, longest] = HEARTBEAT_BOUNDS;
        link.beat(myself, self.number, interval.clamp(shortest, longest));
        let session = SessionRef { number: self.number, link: link.sender.clone(), actor: myself.clone() };
        self.stage = Stage::Member(link);
        self.attempts = 0;
        tracing::info!("member of the cluster");
        self.tell_membership(Membership::Member);
        self.tell_node(NodeMessage::SessionOpened(session));
    }

    fn handle_beat(&mut self, number: u64) {
        self.sequence += 1;
        self.send(number, &ToCoordinator::Heartbeat { sequence: self.sequence });
    }

    fn handle_closed(&mut self, myself: &ActorRef<SessionMessage>, number: u64, reason: &CloseReason) {
        if self.link(number).is_none() {
            return;
        }
        match reason {
            CloseReason::ClosedByPeer(Farewell::Superseded) => self.end(WorkerError::Superseded),
            reason => self.lose(myself, &reason.to_string()),
        }
    }

    fn handle_welcome_overdue(&mut self, myself: &ActorRef<SessionMessage>, number: u64) {
        if let (Stage::Greeting(link), true) = (&self.stage, self.number == number) {
            link.sender.close(Farewell::failed("no answer to hello"));
            self.lose(myself, "the coordinator does not answer");
        }
    }

    fn handle_leave(&mut self, reason: String, left: oneshot::Sender<()>) {
        self.send(self.number, &ToCoordinator::Leaving { reason });
        if let Some(link) = self.link(self.number) {
            link.close(Farewell::Done);
        }
        self.stage = Stage::Ended;
        self.tell_membership(Membership::Joining);
        // Whoever waits has a deadline and may have gone.
        let _ = left.send(());
    }

    fn send(&mut self, number: u64, message: &ToCoordinator) {
        let Some(link) = self.link(number) else { return };
        let sent = codec::encode(message).map_err(|error| error.to_string());
        let sent = sent.and_then(|frame| link.try_send_control(frame.into()).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            // A coordinator that does not read its control messages is lost; the link's reader reports the end.
            tracing::warn!(error, "a message to the coordinator cannot be sent");
            link.close(Farewell::failed("a control message cannot be sent"));
        }
    }

    /// After a link: forgets its jobs and looks for the coordinator again.
    fn lose(&mut self, myself: &ActorRef<SessionMessage>, reason: &str) {
        tracing::warn!(reason, "the coordinator is lost");
        self.tell_membership(Membership::Joining);
        self.tell_node(NodeMessage::SessionLost { session: self.number });
        self.search_again(myself, reason);
    }

    fn search_again(&mut self, myself: &ActorRef<SessionMessage>, reason: &str) {
        let pause = dial::pause(self.attempts, &self.arguments.network.endpoint());
        tracing::info!(reason, ?pause, attempts = self.attempts, "looking for the coordinator again after a pause");
        self.attempts = self.attempts.saturating_add(1);
        let myself = myself.clone();
        let task = OwnedTask::spawn(async move {
            tokio::time::sleep(pause).await;
            // Fails only when the worker is stopping.
            drop(myself.cast(SessionMessage::Redial));
        });
        self.stage = Stage::Searching { _task: task };
    }

    fn end(&mut self, error: WorkerError) {
        self.stage = Stage::Ended;
        self.tell_membership(Membership::Joining);
        self.tell_node(NodeMessage::SessionEnded(error));
    }

    fn link(&self, number: u64) -> Option<LinkSender> {
        match &self.stage {
            Stage::Greeting(link) | Stage::Member(link) if number == self.number => Some(link.sender.clone()),
            _ => None,
        }
    }

    fn tell_node(&self, message: NodeMessage) {
        // Fails only when the worker is stopping.
        drop(self.arguments.node.cast(message));
    }

    fn tell_membership(&self, membership: Membership) {
        if let Some(listener) = &self.arguments.membership {
            listener.send_if_modified(|current| std::mem::replace(current, membership) != membership);
        }
    }
}
