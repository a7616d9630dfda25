//! Links that other workers open: each is read by a task of its own, which hands tensors to the device past all actors, and what they ask for to the
//! server of parameters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asyncdiff_common::codec;
use asyncdiff_common::owned_task::OwnedTask;
use asyncdiff_common::wire::{TensorHeader, TensorName, ToPeer};
use asyncdiff_transport::link::{ControlReceiver, Farewell, Link, LinkSender, Misbehaviour, TensorReceiver};
use asyncdiff_transport::network::Network;
use asyncdiff_transport::weights::WeightServer;
use asyncdiff_transport::{PeerName, WorkerName};
use ractor::ActorRef;
use tokio::task::JoinSet;

use super::NodeMessage;
use crate::device::DeviceHandle;
use crate::intake::Intake;
use crate::nccl::{self, NcclSlot};

/// Links that are read at a time: one per worker of the largest cluster that one job can use.
const READERS_MAX: usize = 256;

/// The accept loop's tools.
pub(super) struct Accepting {
    pub(super) network: Arc<dyn Network>,
    pub(super) intake: Arc<Intake>,
    pub(super) device: DeviceHandle,
    pub(super) node: ActorRef<NodeMessage>,
    pub(super) numbers: Arc<AtomicU64>,
    /// What this worker has, for others.
    pub(super) weights: Arc<WeightServer>,
}

impl Accepting {
    /// Accepts until the network shuts down. The readers end with this.
    pub(super) async fn run(self) {
        let mut readers = JoinSet::new();
        loop {
            let incoming = tokio::select! {
                incoming = self.network.accept() => incoming,
                Some(_) = readers.join_next() => continue,
            };
            let Some(incoming) = incoming else { return };
            let PeerName::Worker(peer) = incoming.peer().clone() else {
                // The coordinator is dialled and never dials.
                continue;
            };
            if readers.len() >= READERS_MAX {
                tracing::warn!(%peer, limit = READERS_MAX, "a link is refused: there are too many");
                continue;
            }
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let link = incoming.accept(self.intake.clone());
            let (intake, device, node) = (Arc::clone(&self.intake), self.device.clone(), self.node.clone());
            let weights = Arc::clone(&self.weights);
            readers.spawn(read(Reader { peer, number, link, intake, device, node, weights }));
        }
    }
}

struct Reader {
    peer: WorkerName,
    number: u64,
    link: Link,
    intake: Arc<Intake>,
    device: DeviceHandle,
    node: ActorRef<NodeMessage>,
    weights: Arc<WeightServer>,
}

async fn read(reader: Reader) {
    let Reader { peer, number, link, intake, device, node, weights } = reader;
    let Link { sender, control, tensors } = link;
    // These fail only when the worker is stopping.
    drop(node.cast(NodeMessage::PeerAccepted { peer: peer.clone(), link: number }));
    let announced = Announced {
        peer: peer.clone(),
        link: sender.clone(),
        intake: Arc::clone(&intake),
        device: device.clone(),
        nccl: None,
    };
    tokio::join!(read_tensors(tensors, &sender, &intake, &device), read_control(control, &sender, &weights, announced));
    let reason = sender.closed().await.to_string();
    drop(node.cast(NodeMessage::PeerLost { peer, link: number, reason }));
}

async fn read_tensors(mut tensors: TensorReceiver, sender: &LinkSender, intake: &Intake, device: &DeviceHandle) {
    while let Some(frame) = tensors.tensor().await {
        if let TensorName::Probe(number) = frame.header.name {
            acknowledge(sender, number);
        } else if let Some(command) = intake.route(frame) {
            device.submit(command).await;
        }
    }
}

/// Who dials asks for parameters and says nothing else. They are served to whoever knows their digests: members of the cluster, as their
/// certificates say.
async fn read_control(mut control: ControlReceiver, sender: &LinkSender, weights: &WeightServer, mut nccl: Announced) {
    let told = sender.clone();
    let asker = weights.asker(sender.clone(), move |wanted, reason| {
        tracing::debug!(reason, "a parameter that another worker asks for is not here");
        tell(&told, &ToPeer::WeightsNotHeld { digests: vec![wanted.digest] });
    });
    while let Some(frame) = control.control().await {
        let asked = match codec::decode(&frame) {
            Ok(ToPeer::NcclOffered { id }) => nccl.handle_offer(id),
            Ok(ToPeer::NcclSent { header }) => nccl.handle_sent(header).await,
            Ok(ToPeer::WantWeights { wanted }) => asker.ask(wanted).map_err(|error| error.to_string()),
            Ok(
                ToPeer::NcclJoining
                | ToPeer::NcclReady
                | ToPeer::NcclRefused { .. }
                | ToPeer::ProbeArrived { .. }
                | ToPeer::WeightsNotHeld { .. },
            ) => Err("who dials a link asked nobody".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = asked {
            return sender.close(Farewell::Misbehaviour(Misbehaviour::malformed("control message", &reason)));
        }
    }
}

/// What the peer says of hidden states that go from GPU to GPU.
struct Announced {
    peer: WorkerName,
    link: LinkSender,
    intake: Arc<Intake>,
    device: DeviceHandle,
    nccl: Option<Joined>,
}

/// The communicator of a link, and the task that makes and keeps it.
struct Joined {
    slot: NcclSlot,
    _keeping: OwnedTask,
}

impl Announced {
    fn handle_offer(&mut self, id: Vec<u8>) -> Result<(), String> {
        if self.nccl.is_some() {
            return Err("a link has one communicator".to_owned());
        }
        let (slot, paths) = (NcclSlot::default(), Arc::clone(self.device.nccl()));
        let answer = nccl::answer(paths, self.peer.clone(), self.link.clone(), slot.clone(), id);
        self.nccl = Some(Joined { slot, _keeping: OwnedTask::spawn(answer) });
        Ok(())
    }

    /// Has the device receive it, also if nobody wants it any more: the sender's transfer has begun.
    async fn handle_sent(&self, header: TensorHeader) -> Result<(), String> {
        let path = self.nccl.as_ref().and_then(|joined| joined.slot.path());
        let path = path.ok_or_else(|| "it was sent over a communicator that does not exist".to_owned())?;
        let name = PeerName::Worker(self.peer.clone());
        let command = self.intake.route_announced(&name, header, path).map_err(|refusal| refusal.to_string())?;
        self.device.submit(command).await;
        Ok(())
    }
}

/// Says that a probe has arrived. One whose answer finds no room is lost, as is one of a peer that is gone: who measures has a deadline.
fn acknowledge(sender: &LinkSender, number: u64) {
    tell(sender, &ToPeer::ProbeArrived { number });
}

/// Says something, if there is room: whoever waits for it has a deadline.
fn tell(sender: &LinkSender, message: &ToPeer) {
    let sent = codec::encode(message).map(|frame| sender.try_send_control(frame.into()));
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(?message, "another worker could not be told");
    }
}
