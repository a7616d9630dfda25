//! TLS settings for every connection of the program: version 1.3 alone, aws-lc-rs by name, no resumption and no early
//! data.
//!
//! The cryptographic provider is passed explicitly everywhere. A process-wide default can be set by any dependency, or
//! by none.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::pin::PinnedAuthority;
use super::{Fingerprint, Identity, IdentityError};

/// The name that the API's certificate carries besides the operator's: a client that pins the authority asks for this
/// name, whatever the address that it connects to.
pub const API_SERVER_NAME: &str = "api.asyncdiff";

/// Who may connect without a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anonymous {
    /// Anyone, so as to enrol. The connection's protocol decides what they may do.
    Allowed,
    /// Nobody.
    Refused,
}

/// For those who connect as themselves to peers of their cluster.
pub(crate) fn client_config(identity: &Identity, protocol: Vec<u8>) -> Result<ClientConfig, IdentityError> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_root_certificates(roots(identity)?)
        .with_client_auth_cert(identity.chain(), identity.private_key())
        .map_err(unusable)?;
    Ok(finish_client(config, protocol))
}

/// For those who have no certificate and know the cluster by its fingerprint.
pub(crate) fn pinned_client_config(fingerprint: Fingerprint, protocol: Vec<u8>) -> Result<ClientConfig, IdentityError> {
    let verifier = PinnedAuthority { fingerprint, provider: provider() };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finish_client(config, protocol))
}

/// TLS for clients of the API: trusts the cluster with that fingerprint and nobody else. Connect to the API's address
/// under the name [`API_SERVER_NAME`].
pub fn api_client_config(authority: Fingerprint) -> Result<ClientConfig, IdentityError> {
    pinned_client_config(authority, b"http/1.1".to_vec())
}

/// For those who are connected to by peers of their cluster.
pub(crate) fn server_config(
    identity: &Identity,
    protocols: Vec<Vec<u8>>,
    anonymous: Anonymous,
) -> Result<ServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), provider());
    let verifier: Arc<dyn ClientCertVerifier> = match anonymous {
        Anonymous::Allowed => verifier.allow_unauthenticated().build(),
        Anonymous::Refused => verifier.build(),
    }
    .map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.private_key())
        .map_err(unusable)?;
    config.alpn_protocols = protocols;
    config.send_tls13_tickets = 0;
    Ok(config)
}

pub(super) fn api_server_config(
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
) -> Result<ServerConfig, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn finish_client(mut config: ClientConfig, protocol: Vec<u8>) -> ClientConfig {
    config.alpn_protocols = vec![protocol];
    // A resumed session would carry over an identity without proving it again, for the sake of a few microseconds per
    // connection.
    config.resumption = Resumption::disabled();
    config
}

fn roots(identity: &Identity) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority().clone()).map_err(unusable)?;
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(error: impl ToString) -> IdentityError {
    IdentityError::Cryptography { doing: "set up TLS", reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, ClientConnection, ServerConnection};

    use super::super::ClusterAuthority;
    use super::*;

    /// Shakes hands in memory.
    fn handshake(server: ServerConfig, client: ClientConfig) -> Result<(), rustls::Error> {
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), API_SERVER_NAME.try_into().unwrap()).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(())
    }

    #[test]
    fn a_client_recognises_the_api_by_the_clusters_fingerprint() {
        let authority = ClusterAuthority::ephemeral().unwrap();
        let server = authority.api_server_config(&["192.0.2.7".into(), "box.example.org".into()]).unwrap();
        handshake(server, api_client_config(authority.fingerprint()).unwrap()).unwrap();
    }

    #[test]
    fn a_client_refuses_the_api_of_another_cluster() {
        let [ours, theirs] = [ClusterAuthority::ephemeral().unwrap(), ClusterAuthority::ephemeral().unwrap()];
        let refused = handshake(theirs.api_server_config(&[]).unwrap(), api_client_config(ours.fingerprint()).unwrap());
        assert_eq!(refused, Err(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)));
    }
}
