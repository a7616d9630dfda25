//! Nobody gets in without the cluster's certificate, and nobody under another's name.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::Connection;

use super::{Cluster, LOOPBACK};
use crate::PeerName;
use crate::conformance::within;
use crate::identity::{Identity, tls};
use crate::link::AdmitEverything;
use crate::quic::config::LinkTiming;
use crate::quic::endpoint::{client_config, control_transport, open_endpoint};
use crate::quic::failure::{Failure, classify};
use crate::quic::protocol::{Protocol, WIRE_VERSION};
use crate::quic::{ConnectError, QuicNode};

/// A bare connection, as somebody with other software makes it.
async fn connect(tls: rustls::ClientConfig, address: SocketAddr, name: &PeerName) -> Result<Connection, Failure> {
    let mut endpoint = open_endpoint(SocketAddr::new(LOOPBACK, 0), None, &tokio::runtime::Handle::current()).unwrap();
    let transport = control_transport(&LinkTiming::default()).unwrap();
    endpoint.set_default_client_config(client_config(tls, Arc::new(transport)).unwrap());
    endpoint.connect(address, &name.dns_name()).unwrap().await.map_err(|error| classify(&error))
}

fn tls_of(identity: &Identity, protocol: Protocol) -> rustls::ClientConfig {
    tls::client_config(identity, protocol.name(WIRE_VERSION)).unwrap()
}

async fn dial(from: &QuicNode, name: &str, to: &QuicNode) -> ConnectError {
    let name = PeerName::worker(name).unwrap();
    let dialled = from.connect(&name, to.control_address(), to.data_address(), Arc::new(AdmitEverything));
    within(dialled).await.err().expect("the link must not be made")
}

#[tokio::test]
async fn a_peer_of_another_cluster_is_not_trusted() {
    let (a, b) = (Cluster::new().worker("a").await, Cluster::new().worker("b").await);
    let error = dial(&a, "b", &b).await;
    assert!(matches!(error, ConnectError::UntrustedPeer { .. }), "{error}");
    assert!(error.to_string().contains("another cluster") && error.to_string().contains("hint: "));
}

#[tokio::test]
async fn an_intruder_of_another_cluster_is_refused() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let b = ours.worker("b").await;
    let intruder = theirs.identity("a").trusting(&ours.identity("a"));
    let intruder = QuicNode::start(ours.config(intruder)).await.unwrap();
    let error = dial(&intruder, "b", &b).await;
    assert!(matches!(error, ConnectError::RefusedOurCertificate { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_a_cannot_be_used_as_b() {
    let cluster = Cluster::new();
    let (a, c) = (cluster.worker("a").await, cluster.worker("c").await);
    let error = dial(&a, "b", &c).await;
    assert!(matches!(error, ConnectError::WrongName { .. }), "{error}");
}

#[tokio::test]
async fn without_a_certificate_one_can_only_enrol() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let (control, data) = (coordinator.control_address(), coordinator.data_address());
    let anonymous = |protocol: Protocol| {
        tls::pinned_client_config(cluster.authority.fingerprint(), protocol.name(WIRE_VERSION)).unwrap()
    };
    let connection = within(connect(anonymous(Protocol::Control), control, &PeerName::Coordinator)).await.unwrap();
    let closed = classify(&within(connection.closed()).await);
    assert!(matches!(closed, Failure::Farewell(_)), "{closed:?}");
    // The data endpoint asks for a certificate in the handshake; the client hears of it with the first answer.
    let closed = match within(connect(anonymous(Protocol::Data), data, &PeerName::Coordinator)).await {
        Ok(connection) => classify(&within(connection.closed()).await),
        Err(failure) => failure,
    };
    assert_eq!(closed, Failure::RefusedOurCertificate);
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(50), coordinator.accept()).await;
    assert!(nobody.is_err());
}

#[tokio::test]
async fn a_workers_data_connection_cannot_be_joined_to_anothers_link() {
    let cluster = Cluster::impatient();
    let (coordinator, number) = (cluster.coordinator().await, [7; 16]);
    let name = PeerName::Coordinator;
    let control = tls_of(&cluster.identity("a"), Protocol::Control);
    let control = within(connect(control, coordinator.control_address(), &name)).await.unwrap();
    let (mut stream, _answers) = control.open_bi().await.unwrap();
    stream.write_all(&number).await.unwrap();
    let data = tls_of(&cluster.identity("b"), Protocol::Data);
    let data = within(connect(data, coordinator.data_address(), &name)).await.unwrap();
    data.open_uni().await.unwrap().write_all(&number).await.unwrap();
    let both = async { (classify(&control.closed().await), classify(&data.closed().await)) };
    let (control, data) = tokio::select! {
        both = within(both) => both,
        _ = coordinator.accept() => panic!("a link was made of two workers' connections"),
    };
    assert!(matches!((&control, &data), (Failure::Farewell(_), Failure::Farewell(_))), "{control:?} {data:?}");
}
