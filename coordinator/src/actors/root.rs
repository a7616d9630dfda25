//! The root of the supervision tree.

use std::sync::Arc;

use asyncdiff_transport::network::Network;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;

use super::Limits;
use super::membership::{Membership, MembershipArguments, MembershipMessage};
use super::queue::{Keeping, Queue, QueueArguments, QueueMessage};
use crate::model_store::ModelStore;

/// Starts Membership and the Queue and ends them.
///
/// Started by the [`Cluster`](crate::Cluster); ends with it. If a child fails, which only a bug can make it do, the
/// root ends too, and whoever waits for an answer is told so.
pub(crate) struct Coordinator;

pub(crate) struct CoordinatorArguments {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) store: Arc<ModelStore>,
    pub(crate) limits: Limits,
    pub(crate) keeping: Keeping,
    pub(crate) count: watch::Sender<usize>,
}

pub(crate) enum CoordinatorMessage {
    /// Which actors are there?
    Parts(RpcReplyPort<Parts>),
}

/// The root's children.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) membership: ActorRef<MembershipMessage>,
    pub(crate) queue: ActorRef<QueueMessage>,
}

impl Actor for Coordinator {
    type Msg = CoordinatorMessage;
    type State = Parts;
    type Arguments = CoordinatorArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<CoordinatorMessage>,
        arguments: CoordinatorArguments,
    ) -> Result<Parts, ActorProcessingErr> {
        let CoordinatorArguments { network, store, limits, keeping, count } = arguments;
        let queue = QueueArguments { store: Arc::clone(&store), limits: limits.clone(), keeping };
        let (queue, _task) = Queue::spawn_linked(None, Queue, queue, myself.get_cell()).await?;
        let membership = MembershipArguments { network, queue: queue.clone(), store, limits, count };
        let (membership, _task) = Membership::spawn_linked(None, Membership, membership, myself.get_cell()).await?;
        Ok(Parts { membership, queue })
    }

    async fn handle(
        &self,
        _myself: ActorRef<CoordinatorMessage>,
        message: CoordinatorMessage,
        state: &mut Parts,
    ) -> Result<(), ActorProcessingErr> {
        let CoordinatorMessage::Parts(reply) = message;
        // Who asked may have given up waiting.
        let _ = reply.send(state.clone());
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<CoordinatorMessage>,
        event: SupervisionEvent,
        _state: &mut Parts,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(_, error) => {
                tracing::error!(%error, "a part of the coordinator failed");
                myself.stop(Some("a part failed".to_owned()));
            }
            SupervisionEvent::ActorTerminated(..) => myself.stop(Some("a part ended".to_owned())),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}
