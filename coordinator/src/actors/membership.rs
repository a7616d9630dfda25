//! Who is in the cluster: accepts links, gives each a session, and lets one session per name be the worker of that
//! name.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use asyncdiff_transport::PeerName;
use asyncdiff_transport::network::{Incoming, Network};
use asyncdiff_transport::weights::WeightServer;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, ActorStatus, RpcReplyPort, SupervisionEvent};
use tokio::sync::watch;

use super::Limits;
use super::queue::QueueMessage;
use super::session::{
    Ending, SessionAdmission, SessionArguments, SessionMessage, WorkerHandle, WorkerRecord, WorkerSession,
};
use super::weights::{StoreSource, WeightDirectory};
use crate::model_store::ModelStore;
use asyncdiff_common::owned_task::OwnedTask;

/// Sessions whose worker has not introduced itself. A whole cluster may come back at once; more than this is a flood.
const SILENT_SESSIONS_LIMIT: usize = 256;

/// The table of workers.
///
/// Started by the root and ends with it. A session's end removes its worker; messages left over are links that nobody
/// accepts, which their diallers see as refused.
pub(crate) struct Membership;

pub(crate) struct MembershipArguments {
    pub(crate) network: Arc<dyn Network>,
    pub(crate) queue: ActorRef<QueueMessage>,
    pub(crate) store: Arc<ModelStore>,
    pub(crate) limits: Limits,
    /// Told the number of workers whenever it changes.
    pub(crate) count: watch::Sender<usize>,
}

pub(crate) enum MembershipMessage {
    /// A worker is to leave as soon as no job needs it. Answered with whether it is there.
    Drain { name: String, reply: Option<RpcReplyPort<bool>> },
    /// A peer opened a link.
    Incoming(Incoming),
    /// A session's worker introduced itself.
    Introduced(WorkerHandle),
    /// Who is there?
    Workers(RpcReplyPort<Vec<WorkerRecord>>),
    /// Sessions with all workers, in the order of their names.
    Handles(RpcReplyPort<Vec<WorkerHandle>>),
    /// A worker's process is known to have ended, before its link says so.
    ProcessEnded { name: String, reason: String },
    /// The coordinator ends: say goodbye to everybody.
    SayGoodbye { reason: String },
}

pub(crate) struct MembershipState {
    arguments: MembershipArguments,
    /// Sends parameters for all sessions.
    server: Arc<WeightServer>,
    directory: WeightDirectory,
    workers: BTreeMap<String, WorkerHandle>,
    silent: HashSet<ActorId>,
    _accepting: OwnedTask,
}

impl Actor for Membership {
    type Msg = MembershipMessage;
    type State = MembershipState;
    type Arguments = MembershipArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<MembershipMessage>,
        arguments: MembershipArguments,
    ) -> Result<MembershipState, ActorProcessingErr> {
        let accepting = OwnedTask::spawn(accept(Arc::clone(&arguments.network), myself));
        let source = Arc::new(StoreSource(Arc::clone(&arguments.store)));
        let server = Arc::new(WeightServer::start(source, arguments.limits.weights_bytes_per_second));
        Ok(MembershipState {
            arguments,
            server,
            directory: WeightDirectory::default(),
            workers: BTreeMap::new(),
            silent: HashSet::new(),
            _accepting: accepting,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<MembershipMessage>,
        message: MembershipMessage,
        state: &mut MembershipState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            MembershipMessage::Drain { name, reply } => {
                let found = state.drain(&name);
                // As below.
                let _ = reply.map(|reply| reply.send(found));
                Ok(())
            }
            MembershipMessage::Incoming(incoming) => state.open_session(&myself, incoming).await,
            MembershipMessage::Introduced(worker) => {
                state.handle_introduced(worker);
                Ok(())
            }
            MembershipMessage::Workers(reply) => {
                // Who asked may have given up waiting.
                let _ = reply.send(state.records());
                Ok(())
            }
            MembershipMessage::Handles(reply) => {
                // As above.
                let _ = reply.send(state.workers.values().cloned().collect());
                Ok(())
            }
            MembershipMessage::ProcessEnded { name, reason } => {
                if let Some(worker) = state.workers.get(&name) {
                    end_session(worker, &reason, Ending::Goodbye);
                }
                Ok(())
            }
            MembershipMessage::SayGoodbye { reason } => {
                for worker in state.workers.values() {
                    end_session(worker, &reason, Ending::Goodbye);
                }
                Ok(())
            }
        }
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<MembershipMessage>,
        event: SupervisionEvent,
        state: &mut MembershipState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(session, _, reason) => {
                state.handle_session_ended(session.get_id(), &reason.unwrap_or_default());
            }
            SupervisionEvent::ActorFailed(session, error) => {
                tracing::error!(%error, "a session failed");
                state.handle_session_ended(session.get_id(), "its session failed by a bug in the coordinator");
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

impl MembershipState {
    async fn open_session(
        &mut self,
        myself: &ActorRef<MembershipMessage>,
        incoming: Incoming,
    ) -> Result<(), ActorProcessingErr> {
        let peer = incoming.peer().clone();
        if !matches!(peer, PeerName::Worker(_)) || self.silent.len() >= SILENT_SESSIONS_LIMIT {
            tracing::warn!(%peer, "a link was refused");
            return Ok(());
        }
        let admission = Arc::new(SessionAdmission::new());
        let link = incoming.accept(Arc::clone(&admission) as Arc<_>);
        let arguments = SessionArguments {
            peer,
            link,
            admission,
            membership: myself.clone(),
            server: Arc::clone(&self.server),
            directory: self.directory.clone(),
            limits: self.arguments.limits.clone(),
        };
        let (session, _task) = WorkerSession::spawn_linked(None, WorkerSession, arguments, myself.get_cell()).await?;
        self.silent.insert(session.get_id());
        Ok(())
    }

    /// The newer life of a name is the worker; a link of the same life that comes back replaces the one that broke.
    fn handle_introduced(&mut self, worker: WorkerHandle) {
        self.silent.remove(&worker.session_id());
        // Supervision overtakes messages: a session can have ended before its introduction is read.
        if worker.session().get_status() >= ActorStatus::Stopping {
            return;
        }
        if let Some(known) = self.workers.get(worker.name()) {
            if known.incarnation() > worker.incarnation() {
                let reason = "a newer process of this name is in the cluster; give each worker a name of its own";
                end_session(&worker, reason, Ending::Refused);
                return;
            }
            // First to those who count on it, with the one that takes its place: they need not plan without it.
            known.announce_loss("replaced by a newer session of the same name", Some(&worker));
            end_session(known, "replaced by a newer session of the same name", Ending::Goodbye);
        }
        tracing::info!(worker = worker.name(), "worker joined");
        // A session that has ended meanwhile is reported by supervision.
        let _ = worker.session().send_message(SessionMessage::Welcome);
        self.directory.add(worker.clone());
        self.workers.insert(worker.name().to_owned(), worker.clone());
        self.tell_queue(QueueMessage::WorkerJoined(worker));
    }

    fn records(&self) -> Vec<WorkerRecord> {
        let record = |worker: &WorkerHandle| worker.record(self.directory.counts(worker.name()));
        self.workers.values().map(record).collect()
    }

    fn drain(&self, name: &str) -> bool {
        let Some(worker) = self.workers.get(name) else { return false };
        tracing::info!(worker = name, "worker is to leave");
        worker.set_leaving();
        self.tell_queue(QueueMessage::WorkersChanged);
        true
    }

    fn handle_session_ended(&mut self, session: ActorId, reason: &str) {
        self.silent.remove(&session);
        let found = self.workers.iter().find(|(_, worker)| worker.session_id() == session);
        let Some(name) = found.map(|(name, _)| name.clone()) else { return };
        if let Some(worker) = self.workers.remove(&name) {
            self.directory.remove(&name, session);
            tracing::info!(worker = name, reason, "worker left");
            // The session did so itself unless it failed; hearing it twice does no harm.
            worker.announce_loss(reason, None);
            self.tell_queue(QueueMessage::WorkerLeft { name });
        }
    }

    fn tell_queue(&self, message: QueueMessage) {
        self.arguments.count.send_replace(self.workers.len());
        if self.arguments.queue.send_message(message).is_err() {
            tracing::debug!("the queue has ended");
        }
    }
}

fn end_session(worker: &WorkerHandle, reason: &str, ending: Ending) {
    let message = SessionMessage::End { reason: reason.to_owned(), ending };
    // A session that has ended needs no end.
    let _ = worker.session().send_message(message);
}

async fn accept(network: Arc<dyn Network>, membership: ActorRef<MembershipMessage>) {
    while let Some(incoming) = network.accept().await {
        if membership.send_message(MembershipMessage::Incoming(incoming)).is_err() {
            return;
        }
    }
    tracing::debug!("the network accepts no more links");
}
