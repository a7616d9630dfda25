//! Enrolment over QUIC: a worker without a certificate gets one for a token.
//!
//! The worker recognises the coordinator by the fingerprint in the token before it says the secret. One stream: a
//! request, an answer, each with four bytes of length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use asyncdiff_common::codec::{self, CodecError};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::time::timeout;

use super::config::LinkTiming;
use tokio::runtime::Handle;

use super::endpoint::{client_config, control_transport, open_endpoint};
use super::failure::{FAREWELL_CODE, Failure, classify};
use super::node::StartError;
use super::protocol::{Protocol, WIRE_VERSION};
use crate::identity::tls;
use crate::identity::{
    ClusterAuthority, EnrolRefusal, EnrolRequest, Enrolled, Identity, IdentityError, JoinToken, JoinedCluster, NodeKey,
    TokenError,
};
use crate::link::Farewell;
use crate::{PeerName, WorkerName};

/// The most bytes of a request or an answer. Two certificates have below 1.5 KiB.
const MESSAGE_LIMIT_BYTES: usize = 16 << 10;

/// Answers enrolments. Called where blocking is allowed.
pub trait Enrolment: Send + Sync {
    /// Gives a certificate, or says why not.
    fn enrol(&self, from: IpAddr, request: EnrolRequest) -> Result<Enrolled, EnrolRefusal>;
}

/// Why a worker was not enrolled.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The coordinator refuses.
    #[error(transparent)]
    Refused(#[from] EnrolRefusal),
    /// The certificate that came cannot be used, or this process cannot make its key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate that came has another name than the wanted one.
    #[error(
        "the coordinator gave a certificate for {found} instead of {wanted}\n\
        hint: run the same build of the program everywhere"
    )]
    OtherName {
        /// The name in the certificate.
        found: PeerName,
        /// The name that was asked for.
        wanted: WorkerName,
    },
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// No address of the token leads to the coordinator.
    #[error(
        "cannot reach the coordinator at {tried}\n\
        hint: see whether it runs, whether the address is right and whether UDP passes the firewalls between"
    )]
    Unreachable {
        /// The addresses with what went wrong at each.
        tried: String,
    },
    /// A coordinator of another cluster.
    #[error(
        "the coordinator at {address} is of another cluster than the join token\n\
        hint: copy the line that this coordinator printed last; if it did print this one, somebody is in between"
    )]
    WrongCluster {
        /// Where.
        address: SocketAddr,
    },
    /// The coordinator speaks another version.
    #[error(
        "the coordinator at {address} speaks another protocol version than this worker (version {WIRE_VERSION})\n\
        hint: run the same version of the program everywhere"
    )]
    VersionMismatch {
        /// Where.
        address: SocketAddr,
    },
}

/// How long a worker waits that found the coordinator with as many connections as it makes at a time; each takes it some milliseconds.
const BUSY_PAUSE: Duration = Duration::from_millis(100);

/// One attempt's failure: whether the next address may do better.
enum Attempt {
    Final(EnrolError),
    TryNext(String),
}

impl Enrolment for ClusterAuthority {
    fn enrol(&self, from: IpAddr, request: EnrolRequest) -> Result<Enrolled, EnrolRefusal> {
        Self::enrol(self, from, request)
    }
}

/// Enrols a worker under a name: tries the token's addresses in turn, each for at most `deadline`. Needs a tokio
/// runtime.
pub async fn enrol(
    token: &JoinToken,
    name: &WorkerName,
    key: &NodeKey,
    deadline: Duration,
) -> Result<JoinedCluster, EnrolError> {
    token.check_not_expired(SystemTime::now())?;
    let mut tried = Vec::new();
    for address in &token.addresses {
        let resolved = match timeout(deadline, address.resolve()).await {
            Ok(Ok(resolved)) => resolved,
            Ok(Err(error)) => {
                tried.push(format!("{} ({error})", address.host));
                continue;
            }
            Err(_) => {
                tried.push(format!("{} (its name was not resolved in time)", address.host));
                continue;
            }
        };
        for (control, _) in resolved {
            match timeout(deadline, attempt(token, name, key, control)).await {
                Ok(Ok(identity)) => {
                    return Ok(JoinedCluster { identity, coordinator: token.addresses.clone() });
                }
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::TryNext(reason))) => tried.push(format!("{control} ({reason})")),
                Err(_) => tried.push(format!("{control} (no answer within {deadline:?})")),
            }
        }
    }
    Err(EnrolError::Unreachable { tried: tried.join(", ") })
}

async fn attempt(
    token: &JoinToken,
    name: &WorkerName,
    key: &NodeKey,
    address: SocketAddr,
) -> Result<Identity, Attempt> {
    let endpoint = anonymous_endpoint(token, address).map_err(|error| Attempt::TryNext(error.to_string()))?;
    let connection = connect(&endpoint, address).await?;
    let request = EnrolRequest { secret: token.secret.clone(), name: name.to_string(), public_key: key.public_key() };
    let answer: Result<Enrolled, EnrolRefusal> =
        ask(&connection, &request).await.map_err(|reason| match connection.close_reason() {
            Some(error) => explain(&error, address),
            None => Attempt::TryNext(reason),
        })?;
    connection.close(FAREWELL_CODE, &Farewell::Done.to_wire());
    let enrolled = answer.map_err(|refusal| Attempt::Final(refusal.into()))?;
    let identity = key.certified(enrolled).map_err(|error| Attempt::Final(error.into()))?;
    if *identity.name() != PeerName::Worker(name.clone()) {
        let (found, wanted) = (identity.name().clone(), name.clone());
        return Err(Attempt::Final(EnrolError::OtherName { found, wanted }));
    }
    if identity.fingerprint() != token.authority {
        return Err(Attempt::Final(EnrolError::WrongCluster { address }));
    }
    Ok(identity)
}

/// Connects, again and again while the coordinator makes too many connections: many workers may be started at once. Whoever calls has a
/// deadline.
async fn connect(endpoint: &Endpoint, address: SocketAddr) -> Result<Connection, Attempt> {
    loop {
        let connecting = endpoint.connect(address, &PeerName::Coordinator.dns_name());
        match connecting.map_err(|error| Attempt::TryNext(error.to_string()))?.await {
            Err(ConnectionError::ConnectionClosed(close))
                if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
            {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            connected => return connected.map_err(|error| explain(&error, address)),
        }
    }
}

/// An endpoint for one enrolment: without a certificate, trusting the token's cluster alone.
fn anonymous_endpoint(token: &JoinToken, address: SocketAddr) -> Result<Endpoint, StartError> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut endpoint = open_endpoint(SocketAddr::new(any, 0), None, &Handle::current())?;
    let tls = tls::pinned_client_config(token.authority, Protocol::Enrol.name(WIRE_VERSION))?;
    let transport = Arc::new(control_transport(&LinkTiming::default())?);
    endpoint.set_default_client_config(client_config(tls, transport)?);
    Ok(endpoint)
}

async fn ask<T: DeserializeOwned>(connection: &Connection, request: &EnrolRequest) -> Result<T, String> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    write_message(&mut send, request).await?;
    read_message(&mut receive).await
}

fn explain(error: &ConnectionError, address: SocketAddr) -> Attempt {
    match classify(error) {
        Failure::UntrustedPeer | Failure::WrongName => Attempt::Final(EnrolError::WrongCluster { address }),
        Failure::VersionMismatch => Attempt::Final(EnrolError::VersionMismatch { address }),
        Failure::Farewell(farewell) => Attempt::TryNext(farewell.to_string()),
        Failure::Ours | Failure::RefusedOurCertificate | Failure::Silence | Failure::Unclear(_) => {
            Attempt::TryNext(error.to_string())
        }
    }
}

/// Serves one enrolment on the coordinator's side.
pub(super) async fn serve(connection: Connection, enrolment: Arc<dyn Enrolment>, deadline: Duration) {
    let from = connection.remote_address();
    let exchange = async {
        let (mut send, mut receive) = connection.accept_bi().await.map_err(|error| error.to_string())?;
        let request: EnrolRequest = read_message(&mut receive).await?;
        let name = request.name.clone();
        // It signs and writes to disk: not on the thread that keeps connections alive.
        let answer = tokio::task::spawn_blocking(move || enrolment.enrol(from.ip(), request));
        let answer = answer.await.map_err(|error| error.to_string())?;
        match &answer {
            Ok(_) => tracing::info!(%from, name, "enrolled a worker"),
            Err(refusal) => tracing::warn!(%from, name, %refusal, "refused an enrolment"),
        }
        write_message(&mut send, &answer).await?;
        // The worker closes when it has the answer.
        connection.closed().await;
        Ok::<(), String>(())
    };
    match timeout(deadline, exchange).await {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => tracing::debug!(%from, reason, "an enrolment failed"),
        Err(_) => tracing::debug!(%from, "an enrolment took too long"),
    }
    connection.close(FAREWELL_CODE, &Farewell::failed("the enrolment is over").to_wire());
}

async fn write_message(stream: &mut SendStream, message: &impl Serialize) -> Result<(), String> {
    let bytes = codec::encode(message).map_err(|error: CodecError| error.to_string())?;
    if bytes.len() > MESSAGE_LIMIT_BYTES {
        return Err(format!("a message of {} bytes is over the limit", bytes.len()));
    }
    // Bounded just above, far below 4 GiB.
    stream.write_all(&(bytes.len() as u32).to_le_bytes()).await.map_err(|error| error.to_string())?;
    stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
    stream.finish().map_err(|error| error.to_string())
}

async fn read_message<T: DeserializeOwned>(stream: &mut RecvStream) -> Result<T, String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|error| error.to_string())?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MESSAGE_LIMIT_BYTES {
        return Err(format!("a message of {length} bytes is over the limit of {MESSAGE_LIMIT_BYTES}"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
    codec::decode(&bytes).map_err(|error| error.to_string())
}
