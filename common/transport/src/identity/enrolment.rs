//! What a worker and the coordinator say to each other when the worker enrols.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Secret;

/// A worker's request for a certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The token's secret.
    pub secret: Secret,
    /// The wanted name, checked by the coordinator.
    pub name: String,
    /// The worker's public key: an uncompressed point of P-256. Its private half stays where it was made.
    pub public_key: Vec<u8>,
}

/// A worker's certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// The worker's certificate, DER.
    pub certificate: Vec<u8>,
    /// The authority's certificate, DER.
    pub authority: Vec<u8>,
}

/// Why the coordinator gives no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum EnrolRefusal {
    /// The token has expired.
    #[error("the join token has expired\nhint: ask the coordinator for a new one (`coordinator join-line`)")]
    ExpiredToken,
    /// The coordinator could not do its part.
    #[error("the coordinator could not write down the enrolment\nhint: see the coordinator's log")]
    Internal,
    /// The name is no name.
    #[error("{found:?} is no worker name\nhint: give `--name` of a-z, 0-9 and '-'")]
    InvalidName {
        /// The wanted name.
        found: String,
    },
    /// The public key is none.
    #[error("the public key is not one of P-256\nhint: run the same build of the program everywhere")]
    InvalidKey,
    /// Another worker has the name.
    #[error(
        "another worker is enrolled as {name}\n\
        hint: give another `--name`, or the state directory with which that worker joined"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The token was revoked.
    #[error("the join token was revoked\nhint: ask the coordinator for a new one (`coordinator join-line`)")]
    RevokedToken,
    /// This address has presented too many wrong secrets.
    #[error("too many wrong join tokens from this address\nhint: wait a minute and copy the token again")]
    TooManyAttempts,
    /// The cluster has as many workers as it may have.
    #[error(
        "the cluster has {limit} workers enrolled and takes no more\n\
        hint: stop the coordinator and strike old ones from registry.json in its state directory"
    )]
    TooManyWorkers {
        /// The most that may be enrolled.
        limit: usize,
    },
    /// No such token.
    #[error("the coordinator does not know this join token\nhint: copy the line that this coordinator printed last")]
    UnknownToken,
}
