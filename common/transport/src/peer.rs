//! Who a process is: its role and name, and how both are written into its certificate.
//!
//! A name is never a field of a message. It is read from the certificate that the peer proved to own, so that nobody
//! can claim another's.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The domain under which certificates carry names. It is looked up nowhere.
const DOMAIN: &str = "asyncdiff";

/// The most characters of a worker's name: a DNS label has no more, and the name is one in the certificate.
pub const WORKER_NAME_LIMIT: usize = 63;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Runs the denoising loop and the queue; one per cluster.
    Coordinator,
    /// Computes components.
    Worker,
}

/// The name of a worker: a DNS label in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerName(Arc<str>);

/// A process of the cluster, as its certificate names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerName {
    /// The cluster's coordinator.
    Coordinator,
    /// The worker of that name.
    Worker(WorkerName),
}

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not a DNS label in lower case.
    #[error(
        "{found:?} is no worker name\n\
        hint: use 1 to {WORKER_NAME_LIMIT} characters of a-z, 0-9 and '-', neither first nor last a '-'"
    )]
    NotALabel {
        /// The text.
        found: String,
    },
    /// A certificate's name that belongs to no role of this protocol.
    #[error("the certificate names {found:?}, which is neither a coordinator nor a worker of this program")]
    UnknownDomain {
        /// The name in the certificate.
        found: String,
    },
}

impl WorkerName {
    /// Checks and takes a name.
    pub fn new(name: &str) -> Result<Self, NameError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_label = (1..=WORKER_NAME_LIMIT).contains(&name.len())
            && name.bytes().all(allowed)
            && !name.starts_with('-')
            && !name.ends_with('-');
        if is_label { Ok(Self(name.into())) } else { Err(NameError::NotALabel { found: name.to_owned() }) }
    }

    /// The name nearest to any text (a host's name, say): other characters become '-'.
    #[must_use]
    pub fn nearest(text: &str) -> Self {
        let mapped: String = text
            .chars()
            .map(|c| c.to_ascii_lowercase())
            .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
            .take(WORKER_NAME_LIMIT)
            .collect();
        Self::new(mapped.trim_matches('-')).unwrap_or_else(|_| Self("worker".into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PeerName {
    /// The worker of that name.
    pub fn worker(name: &str) -> Result<Self, NameError> {
        WorkerName::new(name).map(Self::Worker)
    }

    /// Reads the name that a certificate carries.
    pub fn from_dns_name(dns_name: &str) -> Result<Self, NameError> {
        let unknown = || NameError::UnknownDomain { found: dns_name.to_owned() };
        let local = dns_name.strip_suffix(DOMAIN).and_then(|rest| rest.strip_suffix('.')).ok_or_else(unknown)?;
        match local.strip_suffix(".worker") {
            Some(name) => Self::worker(name),
            None if local == "coordinator" => Ok(Self::Coordinator),
            None => Err(unknown()),
        }
    }

    /// The name as its certificate carries it.
    #[must_use]
    pub fn dns_name(&self) -> String {
        match self {
            Self::Coordinator => format!("coordinator.{DOMAIN}"),
            Self::Worker(name) => format!("{name}.worker.{DOMAIN}"),
        }
    }

    /// What the process is for.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::Coordinator => Role::Coordinator,
            Self::Worker(_) => Role::Worker,
        }
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => formatter.write_str("the coordinator"),
            Self::Worker(name) => write!(formatter, "worker {name}"),
        }
    }
}

impl TryFrom<String> for WorkerName {
    type Error = NameError;

    fn try_from(name: String) -> Result<Self, NameError> {
        Self::new(&name)
    }
}

impl From<WorkerName> for String {
    fn from(name: WorkerName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_certificate() {
        for name in [PeerName::Coordinator, PeerName::worker("gpu-box-2").unwrap()] {
            assert_eq!(PeerName::from_dns_name(&name.dns_name()).unwrap(), name);
        }
    }

    #[test]
    fn what_is_no_label_is_no_name() {
        for text in ["", "A", "a.b", "-a", "a-", "ä", "a b", &"a".repeat(64)] {
            assert!(WorkerName::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_worker_cannot_be_named_like_the_coordinator() {
        assert_ne!(PeerName::worker("coordinator").unwrap().dns_name(), PeerName::Coordinator.dns_name());
        for text in
            ["coordinator", "x.asyncdiff", "a.b.worker.asyncdiff", ".worker.asyncdiff", "worker.asyncdiff", "asyncdiff"]
        {
            assert!(PeerName::from_dns_name(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_host_name_has_a_nearest_name() {
        assert_eq!(WorkerName::nearest("GPU_box.example.org").as_str(), "gpu-box-example-org");
        assert_eq!(WorkerName::nearest("---").as_str(), "worker");
        let long = format!("{}-x", "a".repeat(62));
        assert_eq!(WorkerName::nearest(&long).as_str().len(), 62);
    }
}
