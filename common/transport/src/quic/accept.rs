//! The accepting side: handshakes, who may speak which protocol, pairing.

use std::sync::Arc;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, RecvStream};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::carrier::{Carriers, Connections};
use super::config::QuicConfig;
use super::enrol;
use super::failure::FAREWELL_CODE;
use super::node::IncomingLink;
use super::pairing::{Arrival, Half, Pairing};
use super::protocol::{LINK_NUMBER_BYTES, Protocol};
use crate::PeerName;
use crate::identity::name_in;
use crate::link::Farewell;

/// Handshakes that an endpoint works on at the same time. Each costs about a millisecond of signing on this thread; who
/// floods the endpoint is refused before that.
pub(super) const HANDSHAKES_LIMIT: usize = 64;

/// What handshakes of both endpoints share.
pub(super) struct Acceptor {
    pub(super) config: QuicConfig,
    pub(super) pairing: Pairing,
    pub(super) carriers: Carriers,
    pub(super) links: mpsc::Sender<IncomingLink>,
}

/// Accepts connections of one endpoint until it is closed.
pub(super) async fn run(endpoint: Endpoint, acceptor: Arc<Acceptor>) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_LIMIT));
    let mut handshakes = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        while handshakes.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(from = %incoming.remote_address(), "refused a connection: too many are being made");
            incoming.refuse();
            continue;
        };
        let acceptor = Arc::clone(&acceptor);
        handshakes.spawn(async move {
            let from = incoming.remote_address();
            let deadline = acceptor.config.timing.handshake;
            // Whatever a stranger did wrong is a line in the log for whoever looks for it, and no more.
            match timeout(deadline, async { incoming.await }).await {
                Err(_) => tracing::debug!(%from, "a handshake took too long"),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                Ok(Ok(connection)) => acceptor.greet(connection).await,
            }
            drop(permit);
        });
    }
}

impl Acceptor {
    /// Decides by the protocol's name what the connection may do. Without a certificate it may enrol and nothing else.
    async fn greet(&self, connection: Connection) {
        let protocol = protocol_of(&connection);
        let is = |wanted: Protocol| protocol.as_deref() == Some(&wanted.name(self.config.wire_version)[..]);
        let deadline = self.config.timing.handshake;
        if is(Protocol::Enrol) {
            if let Some(enrolment) = &self.config.enrolment {
                enrol::serve(connection, Arc::clone(enrolment), deadline).await;
            }
            return;
        }
        let Some(peer) = peer_of(&connection) else {
            return refuse(&connection, "a certificate of this cluster is needed");
        };
        let half = async {
            if is(Protocol::Control) { control_half(&connection).await } else { data_half(&connection).await }
        };
        match timeout(deadline, half).await {
            Ok(Some((number, half))) => self.pair(peer, number, half).await,
            Ok(None) => refuse(&connection, "the connection did not begin with a link's number"),
            Err(_) => refuse(&connection, "no link's number came in time"),
        }
    }

    async fn pair(&self, peer: PeerName, number: [u8; LINK_NUMBER_BYTES], half: Half) {
        let (own, other, place) = match self.pairing.arrive((peer.clone(), number), half) {
            Arrival::First { own, other, place } => (own, other, place),
            Arrival::HandedOver => return,
            Arrival::Refused(half, reason) => return refuse(half.connection(), reason),
        };
        let other = timeout(self.config.timing.handshake, other).await;
        drop(place);
        let Ok(Ok(other)) = other else {
            return refuse(own.connection(), "the link's other connection did not come in time");
        };
        let ((Half::Control { connection: control, streams }, Half::Data(data))
        | (Half::Data(data), Half::Control { connection: control, streams })) = (own, other)
        else {
            // The pairing joins only unlike halves.
            return;
        };
        let connections = Connections { peer, control, control_streams: streams, data, offer: None };
        let link = IncomingLink { connections, carriers: self.carriers.clone() };
        // Bounded: when nobody takes new links, diallers run into their deadline.
        if let Err(error) = self.links.send_timeout(link, self.config.timing.handshake).await {
            tracing::warn!(%error, "nobody took a new link");
        }
    }
}

async fn control_half(connection: &Connection) -> Option<([u8; LINK_NUMBER_BYTES], Half)> {
    let (send, mut receive) = connection.accept_bi().await.ok()?;
    let number = read_number(&mut receive).await?;
    Some((number, Half::Control { connection: connection.clone(), streams: (send, receive) }))
}

async fn data_half(connection: &Connection) -> Option<([u8; LINK_NUMBER_BYTES], Half)> {
    let mut receive = connection.accept_uni().await.ok()?;
    let number = read_number(&mut receive).await?;
    Some((number, Half::Data(connection.clone())))
}

async fn read_number(stream: &mut RecvStream) -> Option<[u8; LINK_NUMBER_BYTES]> {
    let mut number = [0; LINK_NUMBER_BYTES];
    stream.read_exact(&mut number).await.ok().map(|()| number)
}

fn refuse(connection: &Connection, reason: &str) {
    tracing::debug!(from = %connection.remote_address(), reason, "refused a connection");
    connection.close(FAREWELL_CODE, &Farewell::failed(reason).to_wire());
}

fn protocol_of(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The name in the certificate that the peer proved to own, if it showed one.
fn peer_of(connection: &Connection) -> Option<PeerName> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let name = name_in(chain.first()?);
    name.inspect_err(|error| tracing::warn!(%error, "the authority signed a certificate that names no process")).ok()
}
