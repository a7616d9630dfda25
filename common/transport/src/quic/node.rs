//! A process's QUIC endpoints on their own thread: started once, dial and accept links, stopped in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::accept::{self, Acceptor};
use super::carrier::{Carriers, Connections, Side};
use super::config::QuicConfig;
use super::dial::{self, ConnectError, Target};
use super::endpoint::Endpoints;
use super::failure::FAREWELL_CODE;
use super::pairing::Pairing;
use crate::PeerName;
use crate::identity::IdentityError;
use crate::link::{Admission, Farewell, Link};

/// Links that may wait to be accepted. More are refused by running into the dialler's deadline.
const WAITING_LINKS: usize = 64;

/// How long a stopping node waits, once its links are closed, until its peers have heard the farewell.
const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// A process's QUIC endpoints. Dropping it closes all links; [`stop`](Self::stop) also waits until the peers know.
pub struct QuicNode {
    dialler: Dialler,
    incoming: mpsc::Receiver<IncomingLink>,
    addresses: (SocketAddr, SocketAddr),
    stop: Option<oneshot::Sender<Stop>>,
    stopped: oneshot::Receiver<()>,
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
        "cannot listen on UDP {address}: {source}\nhint: another process may have the port, or the address is not of this machine"
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

/// How the thread is to end.
enum Stop {
    /// Without a word, as a killed process does.
    #[cfg(test)]
    Killed,
    /// After telling the peers.
    Orderly,
}

struct Started {
    endpoints: Endpoints,
    carriers: Carriers,
    incoming: mpsc::Receiver<IncomingLink>,
}

impl QuicNode {
    /// Opens the endpoints and starts their thread.
    pub async fn start(config: QuicConfig) -> Result<Self, StartError> {
        let handshake = config.timing.handshake;
        let (started_sender, started) = oneshot::channel();
        let (stop, stop_receiver) = oneshot::channel();
        let (stopped_sender, stopped) = oneshot::channel();
        let body = move || {
            run_thread(config, started_sender, stop_receiver);
            // The receiver is gone when nobody waits for the end.
            let _ = stopped_sender.send(());
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
        Ok(Self { dialler, incoming, addresses, stop: Some(stop), stopped })
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

    /// The next link that a peer dials; `None` once the endpoints have stopped.
    pub async fn accept(&mut self) -> Option<IncomingLink> {
        self.incoming.recv().await
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

    /// Closes all links, after what they have accepted was sent, and waits until the peers know and the thread has ended: some
    /// milliseconds, or up to four seconds if a peer does not answer.
    pub async fn stop(mut self) {
        self.signal(Stop::Orderly);
        // An error means that the thread is gone.
        let _ = (&mut self.stopped).await;
    }

    /// Ends the thread as a killed process would: nobody is told.
    #[cfg(test)]
    pub(super) async fn kill(mut self) {
        self.signal(Stop::Killed);
        let _ = (&mut self.stopped).await;
    }

    fn signal(&mut self, how: Stop) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread is gone.
            let _ = stop.send(how);
        }
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

/// The thread's body: a runtime of its own for both endpoints and all their links.
fn run_thread(
    config: QuicConfig,
    started: oneshot::Sender<Result<Started, StartError>>,
    stop: oneshot::Receiver<Stop>,
) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => {
            // An error means that the starter gave up.
            let _ = started.send(Err(StartError::Thread { source }));
            return;
        }
    };
    runtime.block_on(async {
        let endpoints = match Endpoints::open(&config) {
            Ok(endpoints) => endpoints,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let carriers = Carriers::new();
        let (links, incoming) = mpsc::channel(WAITING_LINKS);
        let acceptor = Arc::new(Acceptor { config, pairing: Pairing::default(), carriers: carriers.clone(), links });
        let mut acceptors = JoinSet::new();
        acceptors.spawn(accept::run(endpoints.control.clone(), Arc::clone(&acceptor)));
        acceptors.spawn(accept::run(endpoints.data.clone(), acceptor));
        let answer = Started { endpoints: endpoints.clone(), carriers: carriers.clone(), incoming };
        if started.send(Ok(answer)).is_err() {
            return;
        }
        match stop.await {
            #[cfg(test)]
            Ok(Stop::Killed) => {}
            // The sender lives in the node, which signals when it is dropped.
            Ok(Stop::Orderly) | Err(_) => {
                acceptors.abort_all();
                carriers.stop().await;
                let farewell = Farewell::Done.to_wire();
                endpoints.control.close(FAREWELL_CODE, &farewell);
                endpoints.data.close(FAREWELL_CODE, &farewell);
                let idle = async { tokio::join!(endpoints.control.wait_idle(), endpoints.data.wait_idle()) };
                if tokio::time::timeout(STOP_DEADLINE, idle).await.is_err() {
                    tracing::debug!("stopped although a peer has not acknowledged the farewell");
                }
            }
        }
    });
    // An enrolment may still be writing to disk.
    runtime.shutdown_timeout(STOP_DEADLINE);
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
