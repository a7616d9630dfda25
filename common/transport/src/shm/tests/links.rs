//! Whole links between processes of one host.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::hidden_state;
use crate::conformance::{tensor, until, within};
use crate::link::{CloseReason, Link, LinkKind, TensorFrame};
use crate::quic::tests::{Cluster, join_openly};
use crate::quic::{QuicConfig, QuicNode, SharedMemory};
use crate::shm::{RING_BYTES, TENSORS_IN_FLIGHT};

struct Joined {
    first: Link,
    second: Link,
    nodes: (QuicNode, QuicNode),
}

async fn join(cluster: &Cluster) -> Joined {
    let nodes = (cluster.worker("a").await, cluster.worker("b").await);
    let (first, second) = within(join_openly(&nodes.0, &nodes.1)).await;
    until(|| [&first, &second].iter().all(|link| link.sender.kind() == LinkKind::SharedMemory)).await;
    Joined { first, second, nodes }
}

#[tokio::test]
async fn a_killed_peer_is_lost_at_once() {
    let Joined { first, second: _second, nodes: (_a, b) } = join(&Cluster::of_one_host()).await;
    let start = Instant::now();
    b.kill().await;
    let reason = within(first.sender.closed()).await;
    assert!(matches!(&reason, CloseReason::PeerLost { detail } if detail.contains("process has ended")), "{reason}");
    // QUIC alone would take its idle timeout of two seconds; a millisecond is usual, the rest is for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test]
async fn nothing_more_is_awaited_of_a_killed_peer_and_what_it_had_said_is_read() {
    let Joined { mut first, second, nodes: (_a, b) } = join(&Cluster::of_one_host()).await;
    second.sender.send_control(Bytes::from_static(b"last words")).await.unwrap();
    until(|| first.sender.counters().control_frames_received == 1).await;
    let start = Instant::now();
    b.kill().await;
    assert_eq!(within(first.control.control()).await, Some(Bytes::from_static(b"last words")));
    assert_eq!(within(first.control.control()).await, None);
    assert_eq!(within(first.tensors.tensor()).await, None);
    // A farewell, which never comes, would be awaited for a second; some hundredths of one are usual, the rest is for a busy machine.
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
}

#[tokio::test]
async fn the_dialler_knows_at_once_what_carries_the_link() {
    let cluster = Cluster::of_one_host();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (first, _second) = within(join_openly(&a, &b)).await;
    assert_eq!(first.sender.kind(), LinkKind::SharedMemory);
    assert!(first.sender.lend(1000).is_some());
}

#[tokio::test]
async fn a_link_stays_on_quic_where_one_end_shares_nothing() {
    let cluster = Cluster::of_one_host();
    for unwilling in 0..2 {
        let node = async |index, name| {
            let shared_memory = if index == unwilling { SharedMemory::Unused } else { SharedMemory::Used };
            QuicNode::start(QuicConfig { shared_memory, ..cluster.config(cluster.identity(name)) }).await.unwrap()
        };
        let (a, b) = (node(0, "a").await, node(1, "b").await);
        let (mut first, mut second) = within(join_openly(&a, &b)).await;
        for (from, to) in [(&first.sender, &mut second.tensors), (&second.sender, &mut first.tensors)] {
            from.send_tensor(tensor(1, 1 << 20)).await.unwrap();
            assert_eq!(within(to.tensor()).await.unwrap(), tensor(1, 1 << 20));
        }
        assert_eq!([first.sender.kind(), second.sender.kind()], [LinkKind::Quic; 2]);
        assert!(first.sender.lend(1).is_none());
    }
}

#[tokio::test]
async fn a_tensor_larger_than_the_ring_goes_over_quic() {
    let Joined { first, mut second, nodes: _nodes } = join(&Cluster::of_one_host()).await;
    let mut large = tensor(1, 0);
    large.header.shape = vec![1, RING_BYTES as u32 + 1];
    large.payload = vec![3; RING_BYTES + 1].into();
    first.sender.send_tensor(large.clone()).await.unwrap();
    first.sender.send_tensor(tensor(2, 10)).await.unwrap();
    assert_eq!(within(second.tensors.tensor()).await.unwrap(), tensor(2, 10));
    assert!(within(second.tensors.tensor()).await.unwrap() == large);
}

#[tokio::test]
async fn a_receiver_that_keeps_everything_does_not_stop_the_link() {
    let Joined { first, mut second, nodes: _nodes } = join(&Cluster::of_one_host()).await;
    let all = TENSORS_IN_FLIGHT as u32 + 10;
    let sender = first.sender.clone();
    let sending = tokio::spawn(async move {
        for number in 0..all {
            sender.send_tensor(hidden_state(number, 1 << 16)).await.unwrap();
        }
    });
    let mut kept = HashMap::new();
    while kept.len() < all as usize {
        let frame = within(second.tensors.tensor()).await.unwrap();
        kept.insert(frame.header.name.clone(), frame);
    }
    sending.await.unwrap();
    for number in 0..all {
        let sent = hidden_state(number, 1 << 16);
        assert!(kept[&sent.header.name] == sent, "{number}");
    }
}

#[tokio::test]
async fn many_senders_both_ways_lose_and_mix_nothing() {
    let Joined { mut first, mut second, nodes: _nodes } = join(&Cluster::of_one_host()).await;
    let (senders, each) = (4u32, 50u32);
    // Sizes around a page, and some that fill the ring together.
    let size = |number: u32| [1, 4095, 4096, 4097, 100_000, 3 << 20][number as usize % 6];
    let mut sending = tokio::task::JoinSet::new();
    for link in [&first, &second] {
        for sender in 0..senders {
            let link = link.sender.clone();
            sending.spawn(async move {
                for number in (0..each).map(|index| sender * each + index) {
                    link.send_tensor(hidden_state(number, size(number))).await.unwrap();
                }
            });
        }
    }
    let receive = async |link: &mut Link| {
        let mut seen = HashMap::new();
        for _ in 0..senders * each {
            let frame: TensorFrame = link.tensors.tensor().await.unwrap();
            assert!(seen.insert(frame.header.name, blake3::hash(&frame.payload)).is_none(), "each arrives once");
        }
        for number in 0..senders * each {
            let sent = hidden_state(number, size(number));
            assert_eq!(seen[&sent.header.name], blake3::hash(&sent.payload));
        }
    };
    within(async { tokio::join!(receive(&mut first), receive(&mut second)) }).await;
    sending.join_all().await;
}

#[tokio::test]
async fn memory_that_a_receiver_holds_outlives_the_link() {
    let Joined { first, mut second, nodes: (a, b) } = join(&Cluster::of_one_host()).await;
    first.sender.send_tensor(hidden_state(1, 1 << 20)).await.unwrap();
    let received = within(second.tensors.tensor()).await.unwrap();
    drop((first, second));
    within(a.stop()).await;
    within(b.stop()).await;
    assert!(received == hidden_state(1, 1 << 20));
}

#[tokio::test]
async fn a_loan_that_is_not_sent_or_sent_elsewhere_is_only_memory() {
    let cluster = Cluster::of_one_host();
    let Joined { first, second: _second, nodes: _nodes } = join(&cluster).await;
    let Joined { first: other, second: mut other_second, nodes: _other_nodes } = join(&cluster).await;
    let mut loan = first.sender.lend(1000).unwrap();
    loan.copy_from_slice(&tensor(1, 1000).payload);
    let frame = TensorFrame { payload: loan.into_bytes(), ..tensor(1, 1000) };
    other.sender.send_tensor(frame).await.unwrap();
    assert_eq!(within(other_second.tensors.tensor()).await.unwrap(), tensor(1, 1000));
    until(|| first.sender.lend(RING_BYTES).is_some()).await;
}
