//! The dialling side: two connections, one number, one answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream};
use thiserror::Error;

use super::carrier::{Carriers, Connections, Side};
use super::endpoint::Endpoints;
use super::failure::{Failure, classify};
use super::protocol::{LINK_MADE, LINK_MADE_WITH_OFFER, LINK_NUMBER_BYTES, WIRE_VERSION};
use crate::PeerName;
use crate::identity::{RandomnessUnavailable, random_bytes};
use crate::link::{Admission, Farewell, Link};
use crate::shm::OFFER_BYTES;

/// Why no link was made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address cannot be dialled.
    #[error("cannot connect to {peer} at {address}: {reason}")]
    Address {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// The peer ended the attempt.
    #[error("{peer} at {address} ended the attempt: {farewell}")]
    ClosedByPeer {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
        /// What it said.
        farewell: Farewell,
    },
    /// The connection broke while the link was being made.
    #[error(
        "the connection to {peer} at {address} broke ({detail})\nhint: try again; if it stays so, see the peer's log"
    )]
    Lost {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
        /// What happened.
        detail: String,
    },
    /// This process's endpoints have stopped.
    #[error("this process's endpoints have stopped")]
    NodeStopped,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    /// The peer does not accept this process's certificate.
    #[error(
        "{peer} at {address} does not accept this process's certificate\n\
        hint: this process is enrolled in another cluster; join again with a token of this one"
    )]
    RefusedOurCertificate {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
    },
    /// Nobody answered in time.
    #[error(
        "{peer} did not answer at {address} in time\n\
        hint: see whether it runs, and whether UDP passes the firewalls between"
    )]
    TimedOut {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
    },
    /// The peer is of another cluster.
    #[error(
        "who answers for {peer} at {address} is of another cluster\n\
        hint: a coordinator with another state directory may be running there"
    )]
    UntrustedPeer {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
    },
    /// The peer speaks another version.
    #[error(
        "{peer} at {address} speaks another protocol version than this process (version {WIRE_VERSION})\n\
        hint: run the same version of the program everywhere"
    )]
    VersionMismatch {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
    },
    /// Another process of the cluster answered.
    #[error(
        "who answers at {address} is of this cluster and not {peer}\n\
        hint: the address is out of date; the process that had it has ended"
    )]
    WrongName {
        /// Whom.
        peer: PeerName,
        /// Where.
        address: SocketAddr,
    },
}

/// Whom to dial, where.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) peer: PeerName,
    pub(super) control_address: SocketAddr,
    pub(super) data_address: SocketAddr,
}

/// Makes a link within the deadline. Must run on the endpoints' runtime.
pub(super) async fn dial(
    (endpoints, carriers): (Endpoints, Carriers),
    target: Target,
    admission: Arc<dyn Admission>,
    deadline: Duration,
) -> Result<Link, ConnectError> {
    let (peer, address) = (target.peer.clone(), target.control_address);
    let made = tokio::time::timeout(deadline, make(endpoints, target));
    let mut connections = made.await.map_err(|_| ConnectError::TimedOut { peer, address })??;
    let channel = match connections.offer.take() {
        // Has a short deadline of its own, after which the link is made without.
        Some(offer) => carriers.take_up(&offer, &connections.peer).await,
        None => None,
    };
    Ok(carriers.start(connections, Side::Dialling(channel), admission))
}

pub(super) async fn make(endpoints: Endpoints, target: Target) -> Result<Connections, ConnectError> {
    let number: [u8; LINK_NUMBER_BYTES] = random_bytes()?;
    let peer = &target.peer;
    let control = async {
        let address = target.control_address;
        let connection = connect(&endpoints.control, &endpoints.dial_control, peer, address).await?;
        let failed = |error: String| broken(&connection, peer, address, error);
        let (mut send, receive) = connection.open_bi().await.map_err(|error| failed(error.to_string()))?;
        send.write_all(&number).await.map_err(|error| failed(error.to_string()))?;
        Ok::<_, ConnectError>((connection, send, receive))
    };
    let data = async {
        let address = target.data_address;
        let connection = connect(&endpoints.data, &endpoints.dial_data, peer, address).await?;
        let failed = |error: String| broken(&connection, peer, address, error);
        let mut send = connection.open_uni().await.map_err(|error| failed(error.to_string()))?;
        send.write_all(&number).await.map_err(|error| failed(error.to_string()))?;
        // Fails only if the stream is gone, and then there will be no answer either.
        let _ = send.finish();
        Ok::<_, ConnectError>(connection)
    };
    let ((control, send, mut receive), data) = tokio::try_join!(control, data)?;
    let answered = tokio::select! {
        answered = read_answer(&mut receive) => answered,
        error = data.closed() => return Err(fail(&error, peer, target.data_address)),
    };
    let offer = answered.map_err(|error| broken(&control, peer, target.control_address, error))?;
    Ok(Connections { peer: target.peer, control, control_streams: (send, receive), data, offer })
}

/// Reads that the link is made, and what comes with it.
async fn read_answer(stream: &mut RecvStream) -> Result<Option<[u8; OFFER_BYTES]>, String> {
    let (mut answer, mut offer) = ([0], [0; OFFER_BYTES]);
    stream.read_exact(&mut answer).await.map_err(|error| error.to_string())?;
    match answer {
        [LINK_MADE] => Ok(None),
        [LINK_MADE_WITH_OFFER] => {
            stream.read_exact(&mut offer).await.map_err(|error| error.to_string())?;
            Ok(Some(offer))
        }
        _ => Err("it answered something else than that the link is made".to_owned()),
    }
}

async fn connect(
    endpoint: &Endpoint,
    config: &ClientConfig,
    peer: &PeerName,
    address: SocketAddr,
) -> Result<Connection, ConnectError> {
    let connecting = endpoint.connect_with(config.clone(), address, &peer.dns_name()).map_err(|error| match error {
        quinn::ConnectError::EndpointStopping => ConnectError::NodeStopped,
        error => ConnectError::Address { peer: peer.clone(), address, reason: error.to_string() },
    })?;
    connecting.await.map_err(|error| fail(&error, peer, address))
}

/// A stream failed: the connection knows better why.
fn broken(connection: &Connection, peer: &PeerName, address: SocketAddr, detail: String) -> ConnectError {
    match connection.close_reason() {
        Some(error) => fail(&error, peer, address),
        None => ConnectError::Lost { peer: peer.clone(), address, detail },
    }
}

fn fail(error: &ConnectionError, peer: &PeerName, address: SocketAddr) -> ConnectError {
    let peer = peer.clone();
    match classify(error) {
        Failure::Farewell(farewell) => ConnectError::ClosedByPeer { peer, address, farewell },
        Failure::Ours => ConnectError::NodeStopped,
        Failure::RefusedOurCertificate => ConnectError::RefusedOurCertificate { peer, address },
        Failure::Silence => ConnectError::TimedOut { peer, address },
        Failure::UntrustedPeer => ConnectError::UntrustedPeer { peer, address },
        Failure::Unclear(detail) => ConnectError::Lost { peer, address, detail },
        Failure::VersionMismatch => ConnectError::VersionMismatch { peer, address },
        Failure::WrongName => ConnectError::WrongName { peer, address },
    }
}
