//! Certificates: making the authority's and the processes', and reading names out of them.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use x509_parser::extensions::GeneralName;

use super::{EnrolRefusal, RandomnessUnavailable, StateDirError};
use crate::{NameError, PeerName};

/// Bytes of an uncompressed point of P-256, and the byte that it begins with.
const POINT_BYTES: usize = 65;
const POINT_PREFIX: u8 = 4;

/// The BLAKE3 digest of an authority's certificate: short enough for a line that people copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

/// Why an identity cannot be made or used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// A certificate that is not one, or not of the expected kind.
    #[error("a certificate cannot be used: {reason}")]
    Certificate {
        /// What is wrong with it.
        reason: String,
    },
    /// Signing or key generation failed: a bug, or a broken cryptographic library.
    #[error("cannot {doing}: {reason}")]
    Cryptography {
        /// What was tried.
        doing: &'static str,
        /// What the library says.
        reason: String,
    },
    /// The coordinator refuses the worker.
    #[error(transparent)]
    Enrolment(#[from] EnrolRefusal),
    /// An invitation that nobody could use.
    #[error(
        "cannot make a join token: {reason}\nhint: name 1 to 8 addresses under which workers reach the coordinator"
    )]
    Invitation {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate's name is none of this protocol's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
}

/// The cluster's authority: the key that signs every certificate.
pub(super) struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A public key that came over the wire.
pub(super) struct PublicKey(Vec<u8>);

impl CertificateAuthority {
    /// Makes the certificate of a new authority. The distinguished name holds the key's digest, so that a certificate
    /// of another cluster is refused as of an unknown issuer and not as badly signed.
    pub(super) fn new(key: KeyPair) -> Result<Self, IdentityError> {
        let params = authority_params(&key);
        let certificate = params.self_signed(&key).map_err(cryptography("sign the authority's certificate"))?;
        Ok(Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// Takes up an authority that was stored.
    pub(super) fn load(key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self, IdentityError> {
        if public_key_of(&certificate)? != key.public_key_raw() {
            let reason = "the authority's certificate does not belong to its key".to_owned();
            return Err(IdentityError::Certificate { reason });
        }
        Ok(Self { issuer: Issuer::new(authority_params(&key), key), certificate })
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a process: proves its name both when it connects and when it is connected to.
    pub(super) fn sign_node(
        &self,
        name: &PeerName,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&[name.dns_name()], usages, public_key)
    }

    /// A certificate for a server of other protocols, under any names.
    pub(super) fn sign_server(
        &self,
        names: &[String],
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        self.sign(names, vec![ExtendedKeyUsagePurpose::ServerAuth], public_key)
    }

    fn sign(
        &self,
        names: &[String],
        usages: Vec<ExtendedKeyUsagePurpose>,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        // The validity is rcgen's default, 1975 to 4096: machines of a laboratory have wrong clocks, and membership is
        // ended by the coordinator, who knows every name, not by a date.
        let mut params = CertificateParams::new(names).map_err(cryptography("write names into a certificate"))?;
        params.distinguished_name = common_name(names.first().map_or("", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(public_key, &self.issuer).map_err(cryptography("sign a certificate"))?;
        Ok(certificate.der().clone())
    }
}

impl PublicKey {
    pub(super) fn new(bytes: Vec<u8>) -> Result<Self, EnrolRefusal> {
        // Whether the point is on the curve is left to the peers: a key that is not can never finish a handshake.
        let is_point = bytes.len() == POINT_BYTES && bytes[0] == POINT_PREFIX;
        if is_point { Ok(Self(bytes)) } else { Err(EnrolRefusal::InvalidKey) }
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Fingerprint {
    /// The fingerprint of a certificate.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(*blake3::hash(certificate).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cryptography("make a key"))
}

/// The one name of this protocol that a certificate carries.
pub(crate) fn name_in(certificate: &CertificateDer<'_>) -> Result<PeerName, IdentityError> {
    let unusable = |reason: &str| IdentityError::Certificate { reason: reason.to_owned() };
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|error| unusable(&error.to_string()))?;
    let names = parsed.subject_alternative_name().map_err(|error| unusable(&error.to_string()))?;
    match names.map(|extension| extension.value.general_names.as_slice()) {
        Some([GeneralName::DNSName(name)]) => Ok(PeerName::from_dns_name(name)?),
        _ => Err(unusable("it does not carry exactly one name")),
    }
}

/// The raw public key of a certificate.
pub(super) fn public_key_of(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::Certificate { reason: error.to_string() })?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}

pub(super) fn cryptography(doing: &'static str) -> impl Fn(rcgen::Error) -> IdentityError {
    move |error| IdentityError::Cryptography { doing, reason: error.to_string() }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let digest = blake3::hash(key.public_key_raw()).to_hex();
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("asyncdiff cluster {}", &digest[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    // Common names have at most 64 characters (RFC 5280); the alternative name is the one that counts.
    distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished_name
}
