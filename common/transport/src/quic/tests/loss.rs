//! How links end when processes do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use asyncdiff_common::wire::Endpoint;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::{Cluster, LOOPBACK, join_openly};
use crate::PeerName;
use crate::conformance::{tensor, within};
use crate::link::{AdmitEverything, CloseReason, Farewell, LinkError};
use crate::network::{DialError, Network};
use crate::quic::ConnectError;

#[tokio::test]
async fn a_killed_peer_is_lost_within_the_idle_timeout() {
    let cluster = Cluster::impatient();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (mut first, _second) = join_openly(&a, &b).await;
    b.kill().await;
    let start = Instant::now();
    let reason = within(first.sender.closed()).await;
    assert!(matches!(reason, CloseReason::PeerLost { .. }), "{reason}");
    // Half a second is for a busy machine.
    assert!(start.elapsed() < cluster.timing.control_idle + Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(within(first.tensors.tensor()).await.is_none());
    assert!(matches!(first.sender.try_send_tensor(tensor(1, 1)), Err(LinkError::Closed(_))));
}

#[tokio::test]
async fn a_silent_link_stays_open() {
    let cluster = Cluster::impatient();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (first, second) = join_openly(&a, &b).await;
    let closed = async {
        tokio::select! { reason = first.sender.closed() => reason, reason = second.sender.closed() => reason }
    };
    let closed = tokio::time::timeout(cluster.timing.control_idle * 2, closed).await;
    assert!(closed.is_err(), "{closed:?}");
}

#[tokio::test]
async fn stopping_a_process_closes_its_links_after_what_was_sent() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (first, mut second) = join_openly(&a, &b).await;
    first.sender.send_tensor(tensor(1, 5 << 20)).await.unwrap();
    let start = Instant::now();
    within(a.stop()).await;
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(within(second.tensors.tensor()).await.unwrap(), tensor(1, 5 << 20));
    assert_eq!(within(second.sender.closed()).await, CloseReason::ClosedByPeer(Farewell::Done));
    assert_eq!(within(first.sender.closed()).await, CloseReason::ClosedByUs(Farewell::Done));
}

#[tokio::test]
async fn dialling_where_nobody_listens_ends_at_the_deadline() {
    let cluster = Cluster::impatient();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (control, data) = (b.control_address(), b.data_address());
    b.stop().await;
    let start = Instant::now();
    let name = PeerName::worker("b").unwrap();
    let error = within(a.connect(&name, control, data, Arc::new(AdmitEverything))).await.err().unwrap();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_rejected_link_is_explained() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let name = PeerName::worker("b").unwrap();
    let dialling = a.connect(&name, b.control_address(), b.data_address(), Arc::new(AdmitEverything));
    let rejecting = async { b.accept().await.unwrap().reject(&Farewell::failed("not today")) };
    let (dialled, ()) = within(async { tokio::join!(dialling, rejecting) }).await;
    let error = dialled.err().unwrap();
    assert!(
        matches!(&error, ConnectError::ClosedByPeer { farewell: Farewell::Failed { reason }, .. } if reason == "not today"),
        "{error}"
    );
}

#[tokio::test]
async fn two_links_between_the_same_two_are_kept_apart() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (old, _old_second) = join_openly(&a, &b).await;
    let (new, mut new_second) = join_openly(&a, &b).await;
    old.sender.close(Farewell::Superseded);
    new.sender.send_tensor(tensor(1, 100)).await.unwrap();
    assert_eq!(within(new_second.tensors.tensor()).await.unwrap(), tensor(1, 100));
}

#[tokio::test]
async fn a_name_leads_to_a_peer_and_a_stranger_is_refused_for_good() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (a, b, stranger) = (cluster.worker("a").await, cluster.worker("b").await, other.worker("b").await);
    let (network, name): (&dyn Network, _) = (&a, PeerName::worker("b").unwrap());
    let mut endpoint = b.endpoint();
    assert_eq!(endpoint.host, LOOPBACK.to_string());
    endpoint.host = "localhost".to_owned();
    let dialling = network.connect(&name, &endpoint, Arc::new(AdmitEverything));
    let accepting = async { Network::accept(&b).await.unwrap().accept(Arc::new(AdmitEverything)) };
    let (dialled, accepted) = within(async { tokio::join!(dialling, accepting) }).await;
    assert_eq!([dialled.unwrap().peer(), accepted.peer()], [&name, &PeerName::worker("a").unwrap()]);
    let refused = within(network.connect(&name, &stranger.endpoint(), Arc::new(AdmitEverything))).await;
    assert!(matches!(refused, Err(DialError::Refused { .. })));
    let nowhere = Endpoint { host: String::new(), ..b.endpoint() };
    let unreachable = within(network.connect(&name, &nowhere, Arc::new(AdmitEverything))).await;
    assert!(matches!(unreachable, Err(DialError::Unreachable { .. })));
}

/// Passes datagrams on between one dialler and a listener, until what the listener says is to be lost.
async fn relay_to(listener: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let (outside, inside) =
        (UdpSocket::bind((LOOPBACK, 0)).await.unwrap(), UdpSocket::bind((LOOPBACK, 0)).await.unwrap());
    let (address, is_deaf) = (outside.local_addr().unwrap(), watch::Sender::new(false));
    inside.connect(listener).await.unwrap();
    let deaf = is_deaf.subscribe();
    tokio::spawn(async move {
        let (mut there, mut back, mut dialler) = (vec![0; 1 << 16], vec![0; 1 << 16], None);
        loop {
            tokio::select! {
                Ok((bytes, from)) = outside.recv_from(&mut there) => {
                    dialler = Some(from);
                    inside.send(&there[..bytes]).await.unwrap();
                }
                Ok(bytes) = inside.recv(&mut back) => {
                    let is_deaf = *deaf.borrow();
                    if let (Some(dialler), false) = (dialler, is_deaf) {
                        outside.send_to(&back[..bytes], dialler).await.unwrap();
                    }
                }
            }
        }
    });
    (address, is_deaf)
}

#[tokio::test]
async fn a_peer_that_hears_and_is_not_heard_is_told_so_before_the_idle_timeout() {
    let cluster = Cluster::impatient();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (relay, is_deaf) = relay_to(b.control_address()).await;
    let name = PeerName::worker("b").unwrap();
    let dialling = a.connect(&name, relay, b.data_address(), Arc::new(AdmitEverything));
    let accepting = async { b.accept().await.unwrap().accept(Arc::new(AdmitEverything)) };
    let (dialled, accepted) = tokio::join!(dialling, accepting);
    let dialled = dialled.unwrap();
    is_deaf.send_replace(true);
    let reason = within(dialled.sender.closed()).await;
    assert!(matches!(reason, CloseReason::PeerLost { .. }), "{reason}");
    // Without a word it would hear silence later, and take this side for lost.
    let reason = within(accepted.sender.closed()).await;
    assert!(matches!(&reason, CloseReason::ClosedByPeer(Farewell::Failed { .. })), "{reason}");
}
