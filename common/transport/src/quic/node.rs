//! A process's QUIC endpoints on their own thread: started once, dial and accept links, stopped in order.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::carrier::{Carriers, Connections, Side};
use super::config::QuicConfig;
use super::dial::{self, ConnectError, Target};
use super::endpoint::Endpoints;
use super::failure::FAREWELL_CODE;
use super::thread::{self, Started, Stop};
use crate::PeerName;
use crate::identity::IdentityError;
use crate::link::{Admission, Farewell, Link};

/// A process's QUIC endpoints. Dropping it closes all links; [`stop`](Self::stop) also waits until the peers know.
pub struct QuicNode {
    dialler: Dialler,
    incoming: AsyncMutex<mpsc::Receiver<IncomingLink>>,
    addresses: (SocketAddr, SocketAddr),
    stop: Mutex<Option<oneshot::Sender<Stop>>>,
    /// Closes when the thread has ended.
    stopped: watch::Receiver<()>,
}

/// Dials peers. Clones dial from the same endpoints, so that actors can each have one.
#[derive(Clone)]
pub struct Dialler {
    endpoints: Endpoints,
    carriers: Carriers,
    handshake: Duration,
}

/// A link that a peer has dialled, to be accepted or rejected. Dropping it rejects it.
#[must_use]
pub struct IncomingLink {
    pub(super) connections: Connections,
    pub(super) carriers: Carriers,
}

/// Why the endpoints did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The certificate or the settings cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The socket cannot be opened.
    #[error(
        "cannot listen on UDP {address}: {source}\n\
        hint: another process may have the port, or the address is not of this machine"
    )]
    Socket {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the network thread: {source}")]
    Thread {
        /// What the operating system says.
        source: io::Error,
    },
}

impl QuicNode {
    /// Opens the endpoints and starts their thread.
    pub async fn start(config: QuicConfig) -> Result<Self, StartError> {
        let handshake = config.timing.handshake;
        let (started_sender, started) = oneshot::channel();
        let (stop, stop_receiver) = oneshot::channel();
        let (stopped_sender, stopped) = watch::channel(());
        let body = move || {
            thread::run(config, started_sender, stop_receiver);
            drop(stopped_sender);
        };
        std::thread::Builder::new()
            .name("quic".to_owned())
            .spawn(body)
            .map_err(|source| StartError::Thread { source })?;
        let died = |_| StartError::Thread { source: io::Error::other("it ended at once") };
        let Started { endpoints, carriers, incoming } = started.await.map_err(died)??;
        let listening = |endpoint: &quinn::Endpoint, address| {
            endpoint.local_addr().map_err(|source| StartError::Socket { address, source })
        };
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let addresses = (listening(&endpoints.control, unspecified)?, listening(&endpoints.data, unspecified)?);
        let dialler = Dialler { endpoints, carriers, handshake };
        Ok(Self { dialler, incoming: AsyncMutex::new(incoming), addresses, stop: Mutex::new(Some(stop)), stopped })
    }

    /// Where the control endpoint listens.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// Where the data endpoint listens.
    #[must_use]
    pub fn data_address(&self) -> SocketAddr {
        self.addresses.1
    }

    /// The next link that a peer dials; `None` once the endpoints have stopped. Callers take turns.
    pub async fn accept(&self) -> Option<IncomingLink> {
        self.incoming.lock().await.recv().await
    }

    /// Dials a peer: see [`Dialler::connect`].
    pub async fn connect(
        &self,
        peer: &PeerName,
        control_address: SocketAddr,
        data_address: SocketAddr,
        admission: Arc<dyn Admission>,
    ) -> Result<Link, ConnectError> {
        self.dialler.connect(peer, control_address, data_address, admission).await
    }

    /// A handle that dials from this node's endpoints.
    #[must_use]
    pub fn dialler(&self) -> Dialler {
        self.dialler.clone()
    }

    /// Closes all links, after what they have accepted was sent, and waits until the peers know and the thread has
    /// ended: some milliseconds, or up to four seconds if a peer does not answer.
    pub async fn stop(&self) {
        self.signal(Stop::Orderly);
        self.ended().await;
    }

    /// Ends the thread as a killed process would: nobody is told.
    #[cfg(test)]
    pub(crate) async fn kill(self) {
        self.signal(Stop::Killed);
        self.ended().await;
    }

    fn signal(&self, how: Stop) {
        // Nothing can panic while it is locked.
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stop) = stop {
            // An error means that the thread is gone.
            let _ = stop.send(how);
        }
    }

    async fn ended(&self) {
        let mut stopped = self.stopped.clone();
        // Nothing is ever sent: an error is the end.
        while stopped.changed().await.is_ok() {}
    }
}

impl Dialler {
    /// Makes a link to a peer, which must prove to be the one named. Takes at most the handshake's deadline of the
    /// [configuration](super::LinkTiming).
    pub async fn connect(
        &self,
        peer: &PeerName,
        control_address: SocketAddr,
        data_address: SocketAddr,
        admission: Arc<dyn Admission>,
    ) -> Result<Link, ConnectError> {
        let target = Target { peer: peer.clone(), control_address, data_address };
        let from = (self.endpoints.clone(), self.carriers.clone());
        let dialling = dial::dial(from, target, admission, self.handshake);
        let mut task = AbortOnDrop(self.carriers.runtime().spawn(dialling));
        (&mut task.0).await.unwrap_or(Err(ConnectError::NodeStopped))
    }
}

impl IncomingLink {
    /// Who dialled, by its certificate.
    #[must_use]
    pub fn peer(&self) -> &PeerName {
        &self.connections.peer
    }

    /// Where the peer's control connection comes from.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.connections.control.remote_address()
    }

    /// Makes the link.
    #[must_use]
    pub fn accept(self, admission: Arc<dyn Admission>) -> Link {
        self.carriers.start(self.connections, Side::Accepting, admission)
    }

    /// Turns the peer away.
    pub fn reject(self, farewell: &Farewell) {
        let reason = farewell.to_wire();
        self.connections.control.close(FAREWELL_CODE, &reason);
        self.connections.data.close(FAREWELL_CODE, &reason);
    }
}

impl Drop for QuicNode {
    fn drop(&mut self) {
        self.signal(Stop::Orderly);
    }
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
