//! The link over which this worker sends hidden states to another: the sender dials, and each direction has a link of its own.
//! Back comes only which probes have arrived, and parameters that were asked for.

use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{Endpoint, ToPeer};
use asyncdiff_transport::link::{ControlReceiver, Farewell, Link, LinkSender, Misbehaviour};
use asyncdiff_transport::network::{DialError, Network};
use asyncdiff_transport::{PeerName, WorkerName};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::NodeMessage;
use crate::device::DeviceHandle;
use crate::intake::Intake;
use crate::nccl::{self, NcclAnswer, NcclSlot};
use crate::probing::{Arrivals, PeerPath};
use asyncdiff_common::owned_task::OwnedTask;

/// A link to one peer.
///
/// Started by the Node when a job sends to the peer or the link is to be measured; ends when the link breaks or cannot be made, which the Node hears first, or when the Node
/// replaces it. The link closes with it.
pub(super) struct PeerLink;

pub(super) struct PeerLinkArguments {
    pub(super) peer: WorkerName,
    pub(super) endpoint: Endpoint,
    pub(super) number: u64,
    pub(super) network: Arc<dyn Network>,
    pub(super) intake: Arc<Intake>,
    pub(super) device: DeviceHandle,
    pub(super) node: ActorRef<NodeMessage>,
}

pub(super) enum PeerLinkMessage {
    /// The link has closed.
    Closed(String),
    /// The peer answered, or not.
    Dialled(Result<Link, DialError>),
}

pub(super) struct PeerLinkState {
    peer: WorkerName,
    number: u64,
    intake: Arc<Intake>,
    device: DeviceHandle,
    node: ActorRef<NodeMessage>,
    span: tracing::Span,
    path: Option<PeerPath>,
    /// First dials, then reads the link until it closes.
    task: OwnedTask,
}

impl Actor for PeerLink {
    type Msg = PeerLinkMessage;
    type State = PeerLinkState;
    type Arguments = PeerLinkArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<PeerLinkMessage>,
        arguments: PeerLinkArguments,
    ) -> Result<PeerLinkState, ActorProcessingErr> {
        let PeerLinkArguments { peer, endpoint, number, network, intake, device, node } = arguments;
        let span = tracing::info_span!("peer_link", %peer);
        let name = PeerName::Worker(peer.clone());
        let admission = Arc::clone(&intake);
        let task = OwnedTask::spawn(async move {
            let dialled = network.connect(&name, &endpoint, admission).await;
            // Fails only if the Node has given the link up.
            drop(myself.cast(PeerLinkMessage::Dialled(dialled)));
        });
        Ok(PeerLinkState { peer, number, intake, device, node, span, path: None, task })
    }

    async fn handle(
        &self,
        myself: ActorRef<PeerLinkMessage>,
        message: PeerLinkMessage,
        state: &mut PeerLinkState,
    ) -> Result<(), ActorProcessingErr> {
        let _span = state.span.clone().entered();
        match message {
            PeerLinkMessage::Dialled(Ok(link)) => state.handle_link(&myself, link),
            PeerLinkMessage::Dialled(Err(error)) => state.end(&myself, error.to_string()),
            PeerLinkMessage::Closed(reason) => state.end(&myself, reason),
        }
        Ok(())
    }
}

impl PeerLinkState {
    fn handle_link(&mut self, myself: &ActorRef<PeerLinkMessage>, link: Link) {
        let Link { sender, control, tensors } = link;
        tracing::debug!("connected");
        let (path, arrivals) = PeerPath::new(sender.clone());
        let (myself, device) = (myself.clone(), self.device.clone());
        let nccl = path.nccl.clone();
        let news = News { peer: self.peer.clone(), intake: Arc::clone(&self.intake), arrivals, nccl: nccl.clone() };
        let intake = Arc::clone(&self.intake);
        let offer = nccl::offer(Arc::clone(self.device.nccl()), self.peer.clone(), sender.clone(), nccl);
        self.task = OwnedTask::spawn(async move {
            // Peers send hidden states on links of their own. What is admitted here are parameters that were asked for.
            tokio::join!(news.read(control, &sender), intake.read(tensors, &device), offer);
            let reason = sender.closed().await;
            // Fails only if the Node has given the link up.
            drop(myself.cast(PeerLinkMessage::Closed(reason.to_string())));
        });
        let connected = NodeMessage::PeerConnected { peer: self.peer.clone(), link: self.number, path: path.clone() };
        self.path = Some(path);
        // Fails only when the worker is stopping.
        drop(self.node.cast(connected));
    }

    fn end(&mut self, myself: &ActorRef<PeerLinkMessage>, reason: String) {
        tracing::debug!(reason, "ended");
        self.path = None;
        // As above.
        drop(self.node.cast(NodeMessage::PeerLost { peer: self.peer.clone(), link: self.number, reason }));
        myself.stop(None);
    }
}

/// Who is told what the peer says.
struct News {
    peer: WorkerName,
    intake: Arc<Intake>,
    arrivals: Arrivals,
    nccl: NcclSlot,
}

impl News {
    /// Tells what the peer says until the link closes.
    async fn read(&self, mut control: ControlReceiver, sender: &LinkSender) {
        while let Some(frame) = control.control().await {
            let reason = match codec::decode(&frame) {
                Ok(ToPeer::ProbeArrived { number }) => {
                    self.arrivals.note(number);
                    continue;
                }
                Ok(ToPeer::WeightsNotHeld { digests }) => {
                    self.intake.not_held(&self.peer, &digests);
                    continue;
                }
                Ok(ToPeer::NcclJoining) => {
                    self.nccl.tell(NcclAnswer::Joining);
                    continue;
                }
                Ok(ToPeer::NcclReady) => {
                    self.nccl.tell(NcclAnswer::Ready);
                    continue;
                }
                Ok(ToPeer::NcclRefused { reason }) => {
                    self.nccl.tell(NcclAnswer::Refused(reason));
                    continue;
                }
                Ok(ToPeer::NcclOffered { .. } | ToPeer::NcclSent { .. } | ToPeer::WantWeights { .. }) => {
                    "who accepts a link asks for nothing and sends no hidden states on it".to_owned()
                }
                Err(error) => error.to_string(),
            };
            return sender.close(Farewell::Misbehaviour(Misbehaviour::malformed("control message", &reason)));
        }
    }
}
