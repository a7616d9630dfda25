//! One session with the coordinator, as everybody but its actor sees it.

use asyncdiff_common::wire::ToCoordinator;
use asyncdiff_transport::link::LinkSender;
use ractor::ActorRef;

use super::control_session::SessionMessage;
use crate::requests::RequestResult;

/// Sends to the coordinator in one session; what is sent after the session's end is dropped with it.
#[derive(Clone)]
pub(crate) struct SessionRef {
    pub(crate) number: u64,
    pub(crate) link: LinkSender,
    pub(super) actor: ActorRef<SessionMessage>,
}

impl SessionRef {
    /// Sends a message, in order with the actor's own.
    pub(crate) fn send(&self, message: ToCoordinator) {
        let message = SessionMessage::Send { number: self.number, message: Box::new(message) };
        // Fails only when the worker is stopping.
        drop(self.actor.cast(message));
    }

    /// Answers a request.
    pub(crate) fn reply(&self, request: u64, result: RequestResult) {
        if let Err(failure) = &result {
            tracing::warn!(request, %failure, "a request failed");
        }
        self.send(ToCoordinator::Reply { request, result });
    }
}
