//! What quinn's errors mean: a peer that says goodbye, one of another version or cluster, or none at all.

use quinn::{ApplicationClose, ConnectionError, TransportErrorCode, VarInt};

use super::silence;
use crate::link::{CloseReason, Farewell};

/// The application error code of every orderly close; what is meant is in the encoded [`Farewell`].
pub(super) const FAREWELL_CODE: VarInt = VarInt::from_u32(1);

/// TLS alerts travel as QUIC error codes from here on (RFC 9001, 4.8).
const CRYPTO_BASE: u64 = 0x100;

// TLS alerts (RFC 8446, 6.2) that tell causes apart.
const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_UNKNOWN_CA: u8 = 48;
const ALERT_DECRYPT_ERROR: u8 = 51;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why a connection ended or never came to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The peer closed it, saying why.
    Farewell(Farewell),
    /// This process closed it.
    Ours,
    /// The peer does not accept this process's certificate.
    RefusedOurCertificate,
    /// Silence.
    Silence,
    /// The peer is of another cluster.
    UntrustedPeer,
    /// Anything else.
    Unclear(String),
    /// The two have no protocol in common.
    VersionMismatch,
    /// The peer is of this cluster and not the one that was wanted.
    WrongName,
}

/// On which side a TLS alert was raised.
#[derive(Clone, Copy)]
enum RaisedBy {
    Peer,
    Us,
}

pub(super) fn classify(error: &ConnectionError) -> Failure {
    match error {
        ConnectionError::ApplicationClosed(ApplicationClose { reason, .. }) => {
            Failure::Farewell(Farewell::from_wire(reason))
        }
        ConnectionError::ConnectionClosed(close) => by_code(close.error_code, RaisedBy::Peer, &error.to_string()),
        ConnectionError::TransportError(raised) => by_code(raised.code, RaisedBy::Us, &error.to_string()),
        ConnectionError::VersionMismatch => Failure::VersionMismatch,
        ConnectionError::TimedOut => Failure::Silence,
        ConnectionError::LocallyClosed => Failure::Ours,
        ConnectionError::Reset | ConnectionError::CidsExhausted => Failure::Unclear(error.to_string()),
    }
}

fn by_code(code: TransportErrorCode, raised_by: RaisedBy, text: &str) -> Failure {
    let alert = u64::from(code).checked_sub(CRYPTO_BASE).and_then(|alert| u8::try_from(alert).ok());
    match (alert, raised_by) {
        (Some(ALERT_NO_APPLICATION_PROTOCOL), _) => Failure::VersionMismatch,
        (Some(ALERT_UNKNOWN_CA | ALERT_DECRYPT_ERROR), RaisedBy::Us) => Failure::UntrustedPeer,
        (Some(ALERT_BAD_CERTIFICATE), RaisedBy::Us) => Failure::WrongName,
        (
            Some(ALERT_UNKNOWN_CA | ALERT_DECRYPT_ERROR | ALERT_BAD_CERTIFICATE | ALERT_CERTIFICATE_REQUIRED),
            RaisedBy::Peer,
        ) => Failure::RefusedOurCertificate,
        _ => Failure::Unclear(text.to_owned()),
    }
}

/// What the end of one of a link's connections means for the link.
pub(super) fn close_reason(error: &ConnectionError) -> CloseReason {
    match classify(error) {
        Failure::Farewell(farewell) => CloseReason::on_their_side(farewell),
        Failure::Ours => CloseReason::ClosedByUs(Farewell::Done),
        Failure::Silence => silence::reason(),
        _ => CloseReason::PeerLost { detail: error.to_string() },
    }
}
