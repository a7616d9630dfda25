//! Links that other workers open: each is read by a task of its own, which hands tensors to the device past all actors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use asyncdiff_common::codec;
use asyncdiff_common::wire::{TensorName, ToPeer};
use asyncdiff_transport::link::{Link, LinkSender};
use asyncdiff_transport::network::Network;
use asyncdiff_transport::{PeerName, WorkerName};
use ractor::ActorRef;
use tokio::task::JoinSet;

use super::NodeMessage;
use crate::device::DeviceHandle;
use crate::intake::Intake;

/// Links that are read at a time: one per worker of the largest cluster that one job can use.
const READERS_MAX: usize = 256;

/// The accept loop's tools.
pub(super) struct Accepting {
    pub(super) network: Arc<dyn Network>,
    pub(super) intake: Arc<Intake>,
    pub(super) device: DeviceHandle,
    pub(super) node: ActorRef<NodeMessage>,
    pub(super) numbers: Arc<AtomicU64>,
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
            readers.spawn(read(Reader { peer, number, link, intake, device, node }));
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
}

async fn read(reader: Reader) {
    let Reader { peer, number, link, intake, device, node } = reader;
    // Who dials says nothing but tensors: control frames are discarded and counted.
    let Link { sender, control: _, mut tensors } = link;
    // These fail only when the worker is stopping.
    drop(node.cast(NodeMessage::PeerAccepted { peer: peer.clone(), link: number }));
    while let Some(frame) = tensors.tensor().await {
        if let TensorName::Probe(number) = frame.header.name {
            acknowledge(&sender, number);
        } else if let Some(command) = intake.route(frame) {
            device.submit(command).await;
        }
    }
    let reason = sender.closed().await.to_string();
    drop(node.cast(NodeMessage::PeerLost { peer, link: number, reason }));
}

/// Says that a probe has arrived. One whose answer finds no room is lost, as is one of a peer that is gone: who measures has a deadline.
fn acknowledge(sender: &LinkSender, number: u64) {
    let sent = codec::encode(&ToPeer::ProbeArrived { number }).map(|frame| sender.try_send_control(frame.into()));
    if !matches!(sent, Ok(Ok(()))) {
        tracing::debug!(number, "a probe's arrival could not be told");
    }
}
