//! The receiving parts of a link's end, and the whole.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::core::{Core, Handle};
use super::{Admission, Incoming, LinkSender, Outgoing, TensorFrame};
use crate::PeerName;

/// Control frames that may wait on either side of a link. An actor answers in well under a millisecond; this is some
/// thousand times what is ever in flight, and at most 256 frames of memory if a peer stops reading.
const CONTROL_QUEUE_FRAMES: usize = 256;

/// Tensors that may wait to be sent. A component's outputs at a step are at most a few dozen hidden states for each of
/// two lanes, and nobody is more than one round ahead; so a full queue means that something is stuck.
const SEND_QUEUE_TENSORS: usize = 256;

/// Tensors that were received and not yet taken. More would only move the wait from the sender's memory to the
/// receiver's.
const RECEIVE_QUEUE_TENSORS: usize = 64;

/// One end of a link. Its parts can be given to different tasks; the link closes when all of them are dropped.
pub struct Link {
    /// Sends to the peer.
    pub sender: LinkSender,
    /// Control frames from the peer.
    pub control: ControlReceiver,
    /// Tensors from the peer.
    pub tensors: TensorReceiver,
}

/// Receives control frames in the order in which they were sent. What arrives after this is dropped is discarded and
/// counted.
pub struct ControlReceiver {
    frames: mpsc::Receiver<Bytes>,
    handle: Arc<Handle>,
}

/// Receives tensors in any order. What arrives after this is dropped is discarded and counted.
pub struct TensorReceiver {
    frames: mpsc::Receiver<TensorFrame>,
    _handle: Arc<Handle>,
}

impl Link {
    /// Who is at the other end, by its certificate.
    #[must_use]
    pub fn peer(&self) -> &PeerName {
        self.sender.peer()
    }
}

impl ControlReceiver {
    /// The next frame. `None` when the link has closed and all that had arrived was taken.
    pub async fn control(&mut self) -> Option<Bytes> {
        self.frames.recv().await
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.handle.0
    }
}

impl TensorReceiver {
    /// The next tensor. `None` when the link has closed and all that had arrived was taken.
    pub async fn tensor(&mut self) -> Option<TensorFrame> {
        self.frames.recv().await
    }

    /// The next tensor if one is there, for a thread that must not wait.
    pub fn try_tensor(&mut self) -> Option<TensorFrame> {
        self.frames.try_recv().ok()
    }
}

/// Makes one end of a link to that peer: what the user gets and what the carrier gets.
pub(crate) fn open(
    peer: PeerName,
    remote_address: Option<SocketAddr>,
    admission: Arc<dyn Admission>,
) -> (Link, Outgoing, Incoming) {
    open_end(Core::new(peer, remote_address), admission)
}

/// Makes one end of a link, given what its parts share.
pub(crate) fn open_end(core: Core, admission: Arc<dyn Admission>) -> (Link, Outgoing, Incoming) {
    let core = Arc::new(core);
    let handle = Arc::new(Handle(Arc::clone(&core)));
    let (control_sender, control_outgoing) = mpsc::channel(CONTROL_QUEUE_FRAMES);
    let (tensor_sender, tensors_outgoing) = mpsc::channel(SEND_QUEUE_TENSORS);
    let (control_incoming, control_receiver) = mpsc::channel(CONTROL_QUEUE_FRAMES);
    let (tensors_incoming, tensor_receiver) = mpsc::channel(RECEIVE_QUEUE_TENSORS);
    let link = Link {
        sender: LinkSender { handle: Arc::clone(&handle), control: control_sender, tensors: tensor_sender },
        control: ControlReceiver { frames: control_receiver, handle: Arc::clone(&handle) },
        tensors: TensorReceiver { frames: tensor_receiver, _handle: handle },
    };
    let outgoing = Outgoing { core: Arc::clone(&core), control: control_outgoing, tensors: tensors_outgoing };
    let incoming = Incoming { core, control: control_incoming, tensors: tensors_incoming, admission };
    (link, outgoing, incoming)
}
