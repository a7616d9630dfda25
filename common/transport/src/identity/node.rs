//! What a process proves itself with, and how a worker keeps it.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::certificate::{cryptography, name_in, new_key, public_key_of};
use super::{CoordinatorAddress, Enrolled, Fingerprint, IdentityError, StateDir};
use crate::PeerName;

const KEY_FILE: &str = "node-key.pem";
const CLUSTER_FILE: &str = "cluster.json";

/// A process's certificate and key. Cheap to clone; `Debug` shows the name only.
#[derive(Clone)]
pub struct Identity(Arc<Parts>);

struct Parts {
    name: PeerName,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

/// A worker's key, made before it enrols and kept for its life.
pub struct NodeKey(KeyPair);

/// What a worker keeps of the cluster that it joined.
#[derive(Clone, Debug)]
pub struct JoinedCluster {
    /// Its proof of membership.
    pub identity: Identity,
    /// Where the coordinator was when the worker joined.
    pub coordinator: Vec<CoordinatorAddress>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCluster {
    certificate: String,
    authority: String,
    coordinator: Vec<CoordinatorAddress>,
}

impl Identity {
    /// Puts together what was signed and what signed it, and checks that they fit.
    pub(super) fn new(
        key: &KeyPair,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        if public_key_of(&certificate)? != key.public_key_raw() {
            let reason = "it does not belong to this process's key".to_owned();
            return Err(IdentityError::Certificate { reason });
        }
        let name = name_in(&certificate)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Self(Arc::new(Parts { name, certificate, authority, key })))
    }

    /// The name that it proves.
    #[must_use]
    pub fn name(&self) -> &PeerName {
        &self.0.name
    }

    /// Which cluster it belongs to.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.authority)
    }

    pub(crate) fn authority(&self) -> &CertificateDer<'static> {
        &self.0.authority
    }

    /// The certificate with the authority's after it, which those who know only a fingerprint need.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.0.certificate.clone(), self.0.authority.clone()]
    }

    /// This identity's certificate, trusting another's authority: what an intruder who knows the other cluster would
    /// use.
    #[cfg(test)]
    pub(crate) fn trusting(&self, other: &Self) -> Self {
        let (mine, theirs) = (&self.0, &other.0);
        let key = mine.key.clone_key();
        let (name, certificate) = (mine.name.clone(), mine.certificate.clone());
        Self(Arc::new(Parts { name, certificate, authority: theirs.authority.clone(), key }))
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.key.clone_key())
    }
}

impl NodeKey {
    /// A new key that is kept nowhere.
    pub fn generate() -> Result<Self, IdentityError> {
        new_key().map(Self)
    }

    /// The key of that directory, made if there is none.
    pub fn load_or_make(state: &StateDir) -> Result<Self, IdentityError> {
        if let Some(key) = load_key(state, KEY_FILE)? {
            return Ok(Self(key));
        }
        let key = new_key()?;
        state.write(KEY_FILE, key.serialize_pem().as_bytes())?;
        Ok(Self(key))
    }

    /// The public half, as it goes into an enrolment.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key_raw().to_vec()
    }

    /// Takes up the certificate that the coordinator gave.
    pub fn certified(&self, enrolled: Enrolled) -> Result<Identity, IdentityError> {
        Identity::new(&self.0, enrolled.certificate.into(), enrolled.authority.into())
    }
}

impl JoinedCluster {
    /// What a worker stored when it joined; `None` if it never did.
    pub fn load(state: &StateDir) -> Result<Option<Self>, IdentityError> {
        let Some(bytes) = state.read(CLUSTER_FILE)? else { return Ok(None) };
        let damaged = |reason: String| state.damaged(CLUSTER_FILE, reason);
        let stored: StoredCluster = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let der =
            |text: &str| STANDARD.decode(text).map(CertificateDer::from).map_err(|error| damaged(error.to_string()));
        let key = load_key(state, KEY_FILE)?.ok_or_else(|| damaged("the key beside it is missing".to_owned()))?;
        let identity = Identity::new(&key, der(&stored.certificate)?, der(&stored.authority)?)?;
        Ok(Some(Self { identity, coordinator: stored.coordinator }))
    }

    /// Stores it, so that the worker needs no token when it starts again.
    pub fn store(&self, state: &StateDir) -> Result<(), IdentityError> {
        let stored = StoredCluster {
            certificate: STANDARD.encode(&self.identity.0.certificate),
            authority: STANDARD.encode(&self.identity.0.authority),
            coordinator: self.coordinator.clone(),
        };
        let json = serde_json::to_vec_pretty(&stored).map_err(|error| state.damaged(CLUSTER_FILE, error))?;
        Ok(state.write(CLUSTER_FILE, &json)?)
    }
}

pub(super) fn load_key(state: &StateDir, file: &str) -> Result<Option<KeyPair>, IdentityError> {
    let Some(bytes) = state.read(file)? else { return Ok(None) };
    let pem = String::from_utf8(bytes).map_err(|error| state.damaged(file, error))?;
    let key = KeyPair::from_pem(&pem).map_err(|error| state.damaged(file, error))?;
    if key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
        Ok(Some(key))
    } else {
        Err(cryptography("use a key that is not of P-256")(rcgen::Error::UnsupportedSignatureAlgorithm))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Identity").field(&self.0.name).finish()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("NodeKey(…)")
    }
}
