//! QUIC as a [`Network`]: what actors see of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::Endpoint;
use tokio::net::lookup_host;

use super::dial::ConnectError;
use super::node::QuicNode;
use crate::PeerName;
use crate::link::{Admission, Link};
use crate::network::{BoxFuture, DialError, Incoming, Network};

/// How long a name may take to resolve: as long as a handshake may by default.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

impl Network for QuicNode {
    fn endpoint(&self) -> Endpoint {
        let (control, data) = (self.control_address(), self.data_address());
        // Who listens on every address does not know under which one others see it.
        let host = if control.ip().is_unspecified() { String::new() } else { control.ip().to_string() };
        Endpoint { host, control_port: control.port(), data_port: data.port() }
    }

    fn connect<'a>(
        &'a self,
        peer: &'a PeerName,
        endpoint: &'a Endpoint,
        admission: Arc<dyn Admission>,
    ) -> BoxFuture<'a, Result<Link, DialError>> {
        Box::pin(async move {
            let unreachable = |reason: String| DialError::Unreachable { peer: peer.clone(), reason };
            let mut failure = unreachable(format!("{:?} is the name of no host", endpoint.host));
            for control in resolve(endpoint).await.map_err(unreachable)? {
                let data = SocketAddr::new(control.ip(), endpoint.data_port);
                match QuicNode::connect(self, peer, control, data, Arc::clone(&admission)).await {
                    Ok(link) => return Ok(link),
                    Err(error) => failure = dial_error(peer, &error),
                }
            }
            Err(failure)
        })
    }

    fn accept(&self) -> BoxFuture<'_, Option<Incoming>> {
        Box::pin(async {
            let link = QuicNode::accept(self).await?;
            Some(Incoming::new(link.peer().clone(), move |admission| link.accept(admission)))
        })
    }
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, String> {
    let host = (endpoint.host.as_str(), endpoint.control_port);
    match tokio::time::timeout(RESOLVE_DEADLINE, lookup_host(host)).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("{:?} does not resolve to an address ({error})", endpoint.host)),
        Err(_) => Err(format!("{:?} was not resolved within {RESOLVE_DEADLINE:?}", endpoint.host)),
    }
}

/// Whether trying again could help.
fn dial_error(peer: &PeerName, error: &ConnectError) -> DialError {
    let (peer, reason) = (peer.clone(), error.to_string());
    match error {
        ConnectError::RefusedOurCertificate { .. }
        | ConnectError::UntrustedPeer { .. }
        | ConnectError::VersionMismatch { .. } => DialError::Refused { peer, reason },
        ConnectError::Address { .. }
        | ConnectError::ClosedByPeer { .. }
        | ConnectError::Lost { .. }
        | ConnectError::NodeStopped
        | ConnectError::Randomness(_)
        | ConnectError::TimedOut { .. }
        | ConnectError::WrongName { .. } => DialError::Unreachable { peer, reason },
    }
}
