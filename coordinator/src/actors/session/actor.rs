//! The actor: what it is started with, what it hears, and the tasks that it owns.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::codec;
use asyncdiff_common::wire::ToCoordinator;
use asyncdiff_transport::PeerName;
use asyncdiff_transport::link::{ControlReceiver, Link, LinkSender};
use asyncdiff_transport::weights::WeightServer;
use bytes::Bytes;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::watch;

use super::SessionAdmission;
use super::requests::NewRequest;
use super::state::{SessionParts, SessionState};
use super::tensors::{Routes, receive_tensors};
use super::weights::SessionWeights;
use crate::actors::Limits;
use crate::actors::membership::MembershipMessage;
use crate::actors::weights::WeightDirectory;
use asyncdiff_common::owned_task::OwnedTask;

/// The session with one worker.
///
/// Started by Membership when a worker opens a link; ends with the link, with the heartbeat, or when Membership says
/// so. Messages left over are dropped: who waits for an answer learns that the session has ended.
pub(crate) struct WorkerSession;

/// What a session is started with.
pub(crate) struct SessionArguments {
    pub(crate) peer: PeerName,
    pub(crate) link: Link,
    pub(crate) admission: Arc<SessionAdmission>,
    pub(crate) membership: ActorRef<MembershipMessage>,
    pub(crate) server: Arc<WeightServer>,
    pub(crate) directory: WeightDirectory,
    pub(crate) limits: Limits,
}

/// What a session hears.
pub(crate) enum SessionMessage {
    /// The worker said something.
    Control(Box<ToCoordinator>),
    /// The worker said something that is no message of this protocol.
    Garbled(String),
    /// The link closed.
    LinkClosed(String),
    /// A request is to be sent.
    Request(NewRequest),
    /// The tensor of a request arrived.
    TensorArrived { request: u64, payload: Bytes },
    /// Time passed.
    Tick,
    /// A parameter of the checkpoint could not be read.
    WeightsUnreadable { digest: [u8; 32], reason: String },
    /// Membership took the worker in.
    Welcome,
    /// Membership does not take the worker in, or not any more.
    End { reason: String, ending: Ending },
}

/// How Membership ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The coordinator ends, or another session takes its place.
    Goodbye,
    /// The worker cannot be a member.
    Refused,
}

impl Actor for WorkerSession {
    type Msg = SessionMessage;
    type State = SessionState;
    type Arguments = SessionArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<SessionMessage>,
        arguments: SessionArguments,
    ) -> Result<SessionState, ActorProcessingErr> {
        let SessionArguments { peer, link, admission, membership, server, directory, limits } = arguments;
        let Link { sender, control, tensors } = link;
        let (routes, routes_seen) = watch::channel(Routes::default());
        let told = myself.clone();
        let asker = server.asker(sender.clone(), move |wanted, reason| {
            // A session that has ended needs no parameters.
            let _ = told.send_message(SessionMessage::WeightsUnreadable { digest: wanted.digest, reason });
        });
        let weights = SessionWeights::new(asker, directory);
        let tasks = [
            OwnedTask::spawn(receive_control(control, sender.clone(), myself.clone())),
            OwnedTask::spawn(receive_tensors(tensors, routes_seen, myself.clone())),
            OwnedTask::spawn(tick(limits.heartbeat_interval, myself)),
        ];
        let parts = SessionParts { peer, link: sender, admission, membership, limits, weights };
        Ok(SessionState::new(parts, routes, tasks))
    }

    async fn handle(
        &self,
        myself: ActorRef<SessionMessage>,
        message: SessionMessage,
        state: &mut SessionState,
    ) -> Result<(), ActorProcessingErr> {
        let span = state.span();
        let _entered = span.enter();
        if state.has_ended() {
            return Ok(());
        }
        match message {
            SessionMessage::Control(message) => state.handle_control(&myself, *message),
            SessionMessage::Garbled(reason) => state.handle_garbled(&myself, &reason),
            SessionMessage::LinkClosed(reason) => state.handle_link_closed(&myself, &reason),
            SessionMessage::Request(request) => state.handle_request(&myself, request),
            SessionMessage::TensorArrived { request, payload } => state.handle_tensor(request, payload),
            SessionMessage::Tick => state.handle_tick(&myself),
            SessionMessage::WeightsUnreadable { digest, reason } => state.handle_unreadable(digest, &reason),
            SessionMessage::Welcome => state.handle_welcome(&myself),
            SessionMessage::End { reason, ending } => state.handle_end(&myself, reason, ending),
        }
        Ok(())
    }
}

async fn receive_control(mut control: ControlReceiver, link: LinkSender, session: ActorRef<SessionMessage>) {
    while let Some(frame) = control.control().await {
        let message = match codec::decode(&frame) {
            Ok(message) => SessionMessage::Control(Box::new(message)),
            Err(error) => SessionMessage::Garbled(error.to_string()),
        };
        if session.send_message(message).is_err() {
            return;
        }
    }
    let reason = link.closed().await.to_string();
    let (reason, _) = crate::failure::split_hint(&reason);
    // A session that has ended closed the link itself.
    let _ = session.send_message(SessionMessage::LinkClosed(reason));
}

async fn tick(interval: Duration, session: ActorRef<SessionMessage>) {
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if session.send_message(SessionMessage::Tick).is_err() {
            return;
        }
    }
}
