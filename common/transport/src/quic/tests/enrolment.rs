//! Workers join with a token, and with nothing else.

use std::sync::Arc;
use std::time::Duration;

use super::{Cluster, LOOPBACK};
use crate::conformance::within;
use crate::identity::{ClusterAuthority, CoordinatorAddress, EnrolRefusal, JoinToken, NodeKey, TokenError};
use crate::link::AdmitEverything;
use crate::quic::accept::HANDSHAKES_LIMIT;
use crate::quic::{EnrolError, QuicConfig, QuicNode, enrol};
use crate::{PeerName, WorkerName};

const MINUTE: Duration = Duration::from_secs(60);

fn invite(authority: &ClusterAuthority, coordinator: &QuicNode, valid_for: Duration) -> JoinToken {
    let address = CoordinatorAddress {
        host: LOOPBACK.to_string(),
        control_port: coordinator.control_address().port(),
        data_port: coordinator.data_address().port(),
    };
    authority.invite(vec![address], valid_for).unwrap()
}

async fn refused(token: &JoinToken) -> EnrolError {
    let key = NodeKey::generate().unwrap();
    let name = WorkerName::new("a").unwrap();
    let error = within(enrol(token, &name, &key, Duration::from_millis(500))).await.unwrap_err();
    assert!(error.to_string().contains("hint: "), "{error}");
    error
}

#[tokio::test]
async fn a_worker_enrols_with_the_line_and_links_to_the_coordinator() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let line = invite(&cluster.authority, &coordinator, MINUTE).to_string();
    let (token, key) = (line.parse::<JoinToken>().unwrap(), NodeKey::generate().unwrap());
    let name = WorkerName::new("a").unwrap();
    let joined = within(enrol(&token, &name, &key, MINUTE)).await.unwrap();
    assert!(cluster.authority.knows_worker(&name));
    let worker = QuicNode::start(QuicConfig::new(joined.identity, LOOPBACK)).await.unwrap();
    let (control, data) = joined.coordinator[0].resolve().await.unwrap()[0];
    let accepting = async {
        let link = coordinator.accept().await.unwrap();
        assert_eq!(link.peer(), &PeerName::Worker(name.clone()));
        link.accept(Arc::new(AdmitEverything))
    };
    let dialling = worker.connect(&PeerName::Coordinator, control, data, Arc::new(AdmitEverything));
    let (accepted, dialled) = within(async { tokio::join!(accepting, dialling) }).await;
    assert_eq!(dialled.unwrap().peer(), &PeerName::Coordinator);
    assert_eq!(accepted.sender.remote_address().unwrap().ip(), LOOPBACK);
}

#[tokio::test]
async fn more_workers_than_the_coordinator_greets_at_a_time_enrol_all_the_same() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let token = invite(&cluster.authority, &coordinator, MINUTE);
    let mut workers = tokio::task::JoinSet::new();
    for index in 0..3 * HANDSHAKES_LIMIT {
        let token = token.clone();
        workers.spawn(async move {
            let (key, name) = (NodeKey::generate().unwrap(), WorkerName::new(&format!("worker-{index}")).unwrap());
            enrol(&token, &name, &key, MINUTE).await
        });
    }
    let enrolled = within(workers.join_all()).await;
    let refused: Vec<String> = enrolled.into_iter().filter_map(|joined| Some(joined.err()?.to_string())).collect();
    assert_eq!(refused, Vec::<String>::new());
}

#[tokio::test]
async fn an_expired_token_is_refused_on_both_sides() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let expired = invite(&cluster.authority, &coordinator, Duration::ZERO);
    assert!(matches!(refused(&expired).await, EnrolError::Token(TokenError::Expired { .. })));
    // A worker whose clock is wrong, or who has changed the date in the token.
    let forged = JoinToken { expires_at: u64::MAX, ..expired };
    assert!(matches!(refused(&forged).await, EnrolError::Refused(EnrolRefusal::ExpiredToken)));
}

#[tokio::test]
async fn a_revoked_or_unknown_token_is_refused() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let token = invite(&cluster.authority, &coordinator, MINUTE);
    let foreign = invite(&ClusterAuthority::ephemeral().unwrap(), &coordinator, MINUTE);
    let unknown = JoinToken { secret: foreign.secret, ..token.clone() };
    assert!(matches!(refused(&unknown).await, EnrolError::Refused(EnrolRefusal::UnknownToken)));
    let id = cluster.authority.tokens()[0].id.clone();
    assert!(cluster.authority.revoke_token(&id).unwrap());
    assert!(matches!(refused(&token).await, EnrolError::Refused(EnrolRefusal::RevokedToken)));
}

#[tokio::test]
async fn the_secret_is_not_said_to_a_coordinator_of_another_cluster() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let coordinator = cluster.coordinator().await;
    let token = invite(&cluster.authority, &coordinator, MINUTE);
    let wrong = JoinToken { authority: other.authority.fingerprint(), ..token };
    assert!(matches!(refused(&wrong).await, EnrolError::WrongCluster { .. }));
}

#[tokio::test]
async fn a_coordinator_of_another_version_is_named_as_such() {
    let cluster = Cluster::new();
    let mut config = cluster.config(cluster.authority.coordinator_identity().unwrap());
    config.enrolment = Some(Arc::clone(&cluster.authority) as Arc<_>);
    config.wire_version += 1;
    let coordinator = QuicNode::start(config).await.unwrap();
    let token = invite(&cluster.authority, &coordinator, MINUTE);
    assert!(matches!(refused(&token).await, EnrolError::VersionMismatch { .. }));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator().await;
    let token = invite(&cluster.authority, &coordinator, MINUTE);
    let address = coordinator.control_address();
    coordinator.stop().await;
    let error = refused(&token).await;
    assert!(matches!(error, EnrolError::Unreachable { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn a_worker_does_not_enrol_strangers() {
    let cluster = Cluster::new();
    let worker = cluster.worker("b").await;
    let token = invite(&cluster.authority, &worker, MINUTE);
    refused(&token).await;
}
