//! How two processes come to share memory: an offer on the encrypted control stream, taken up on a unix socket.
//!
//! ```text
//!   acceptor: a random name, bound; a random secret ── control stream ──► dialler
//!   dialler:  proof, descriptor of its ring ───────── unix socket ──────► acceptor
//!   acceptor: proof, descriptor of its ring ─────────────────────────────► dialler
//!   dialler:  one byte: it will send and expect tensors here ────────────► acceptor
//! ```
//!
//! A proof is a keyed hash of which side gives it: names of abstract sockets can be read by everybody in the network
//! namespace, and neither a stranger who connects to one nor one who binds it later must learn the secret or be believed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdUnixListener};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use super::memory::{DescriptorError, OwnMemory, PeerMemory};
use crate::identity::random_bytes;

const NAME_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;

/// Bytes of an offer on the control stream.
pub(crate) const OFFER_BYTES: usize = NAME_BYTES + SECRET_BYTES;

/// How long an acceptor waits for a dialler on its socket: a round trip on the control connection of a busy machine.
const OFFER_DEADLINE: Duration = Duration::from_secs(2);

/// How long a dialler tries: on one host it takes well under a millisecond. Whoever waits for the link waits for this.
const TAKE_UP_DEADLINE: Duration = Duration::from_millis(500);

/// Strangers that are heard on an offer's socket before it is given up. A stranger can do no more than that.
const STRANGERS_LIMIT: usize = 4;

/// How long one of them may be silent.
const STRANGER_DEADLINE: Duration = Duration::from_millis(300);

/// The dialler's last word.
const CONFIRMED: u8 = 1;

/// An acceptor's offer to share memory. Dropping it withdraws it.
pub(crate) struct Offer {
    name: [u8; NAME_BYTES],
    secret: Secret,
    listener: UnixListener,
}

/// Two processes that share memory: what the lane is made of.
pub(crate) struct Channel {
    pub(super) socket: UnixStream,
    pub(super) own: OwnMemory,
    pub(super) peer: PeerMemory,
}

#[derive(Clone)]
struct Secret([u8; SECRET_BYTES]);

/// Who gives a proof.
#[derive(Clone, Copy)]
enum Side {
    Acceptor,
    Dialler,
}

/// Why no memory is shared. The link stays on QUIC, so that this is for the log alone.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the descriptor that the peer passed is refused: {0}")]
    Descriptor(#[from] DescriptorError),
    #[error("the peer passed {0} descriptors and not one")]
    Descriptors(usize),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the peer does not know the secret")]
    Proof,
    #[error("it took too long")]
    TimedOut,
}

impl Offer {
    /// Binds a name that nobody can guess. Must be called on the runtime that will wait on it.
    pub(crate) fn new() -> Result<Self, HandshakeError> {
        let random = random_bytes::<OFFER_BYTES>().map_err(io::Error::other)?;
        let (name, secret) = split(&random);
        let listener = StdUnixListener::bind_addr(&SocketAddr::from_abstract_name(abstract_name(&name))?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { name, secret, listener: UnixListener::from_std(listener)? })
    }

    /// What the dialler has to know.
    pub(crate) fn to_wire(&self) -> [u8; OFFER_BYTES] {
        let mut bytes = [0; OFFER_BYTES];
        bytes[..NAME_BYTES].copy_from_slice(&self.name);
        bytes[NAME_BYTES..].copy_from_slice(&self.secret.0);
        bytes
    }

    /// Waits for the dialler.
    pub(crate) async fn accept(self) -> Result<Channel, HandshakeError> {
        let (socket, own, peer) =
            timeout(OFFER_DEADLINE, self.meet()).await.unwrap_or(Err(HandshakeError::TimedOut))?;
        // Nobody else is to come.
        drop(self.listener);
        // The dialler confirms or closes; it must not be left behind once it has confirmed, however late. The link's end
        // ends this too.
        let mut socket = socket;
        if socket.read_u8().await? != CONFIRMED {
            return Err(HandshakeError::Proof);
        }
        Ok(Channel { socket, own, peer })
    }

    async fn meet(&self) -> Result<(UnixStream, OwnMemory, PeerMemory), HandshakeError> {
        let mut last = HandshakeError::Proof;
        for _ in 0..STRANGERS_LIMIT {
            let (socket, _) = self.listener.accept().await?;
            let met = timeout(STRANGER_DEADLINE, self.greet(&socket)).await;
            match met.unwrap_or(Err(HandshakeError::TimedOut)) {
                Ok((own, peer)) => return Ok((socket, own, peer)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn greet(&self, socket: &UnixStream) -> Result<(OwnMemory, PeerMemory), HandshakeError> {
        let peer = receive(socket, &self.secret.proof(Side::Dialler)).await?;
        let own = OwnMemory::new().map_err(io::Error::from)?;
        send(socket, &self.secret.proof(Side::Acceptor), own.file()).await?;
        Ok((own, peer))
    }
}

/// The dialler's side: finds whoever made the offer, if it is of this host.
pub(crate) async fn take_up(offer: &[u8; OFFER_BYTES]) -> Result<Channel, HandshakeError> {
    let (_, secret) = split(offer);
    let taking_up = async {
        let mut socket = UnixStream::connect(socket_path(offer)).await?;
        let own = OwnMemory::new().map_err(io::Error::from)?;
        send(&socket, &secret.proof(Side::Dialler), own.file()).await?;
        let peer = receive(&socket, &secret.proof(Side::Acceptor)).await?;
        socket.write_u8(CONFIRMED).await?;
        Ok(Channel { socket, own, peer })
    };
    timeout(TAKE_UP_DEADLINE, taking_up).await.unwrap_or(Err(HandshakeError::TimedOut))
}

impl Secret {
    fn proof(&self, side: Side) -> blake3::Hash {
        let side: &[u8] = match side {
            Side::Acceptor => b"asyncdiff shared memory, acceptor",
            Side::Dialler => b"asyncdiff shared memory, dialler",
        };
        blake3::keyed_hash(&self.0, side)
    }
}

fn split(offer: &[u8; OFFER_BYTES]) -> ([u8; NAME_BYTES], Secret) {
    let (mut name, mut secret) = ([0; NAME_BYTES], [0; SECRET_BYTES]);
    name.copy_from_slice(&offer[..NAME_BYTES]);
    secret.copy_from_slice(&offer[NAME_BYTES..]);
    (name, Secret(secret))
}

/// What a dialler proves that it knows the secret with.
#[cfg(test)]
pub(super) fn dialler_proof(offer: &[u8; OFFER_BYTES]) -> blake3::Hash {
    split(offer).1.proof(Side::Dialler)
}

/// Where an offer's socket is, as tokio is told of an abstract name.
pub(super) fn socket_path(offer: &[u8; OFFER_BYTES]) -> PathBuf {
    let (name, _) = split(offer);
    PathBuf::from(format!("\0{}", abstract_name(&name)))
}

fn abstract_name(name: &[u8; NAME_BYTES]) -> String {
    format!("asyncdiff-{:032x}", u128::from_be_bytes(*name))
}

/// Sends a proof with a descriptor. It is the first thing on the socket, so that there is room for all of it.
async fn send(socket: &UnixStream, proof: &blake3::Hash, file: BorrowedFd<'_>) -> Result<(), HandshakeError> {
    let sent = socket.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let files = [file];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&files)), "the space is for one descriptor");
        let proof = [IoSlice::new(proof.as_bytes())];
        Ok(rustix::net::sendmsg(socket, &proof, &mut ancillary, SendFlags::NOSIGNAL)?)
    });
    if sent.await? == blake3::OUT_LEN { Ok(()) } else { Err(HandshakeError::Proof) }
}

/// Receives a proof with a descriptor, and maps it if the proof is right.
async fn receive(socket: &UnixStream, expected: &blake3::Hash) -> Result<PeerMemory, HandshakeError> {
    let (proof, files) = socket.async_io(Interest::READABLE, || receive_now(socket)).await?;
    // Compared in constant time.
    if blake3::Hash::from_bytes(proof) != *expected {
        return Err(HandshakeError::Proof);
    }
    match &files[..] {
        [file] => Ok(PeerMemory::new(file)?),
        other => Err(HandshakeError::Descriptors(other.len())),
    }
}

/// What is there: at most a proof's bytes, and the descriptors that came with them. Those for which there is no space are closed by
/// the kernel.
fn receive_now(socket: &UnixStream) -> io::Result<([u8; blake3::OUT_LEN], Vec<OwnedFd>)> {
    let mut proof = [0; blake3::OUT_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut proof)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let files = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => files.collect(),
        _ => Vec::new(),
    });
    let files = files.collect();
    if received.bytes == blake3::OUT_LEN { Ok((proof, files)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
