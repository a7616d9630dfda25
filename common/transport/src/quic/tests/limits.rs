//! Links that carry less than the network does.

use std::time::{Duration, Instant};

use super::{Cluster, join_openly};
use crate::conformance::{tensor, within};
use crate::link::LinkKind;
use crate::quic::{LinkLimit, QuicConfig, QuicNode};

async fn limited(cluster: &Cluster, name: &str, limit: LinkLimit) -> QuicNode {
    let config = cluster.config(cluster.identity(name));
    QuicNode::start(QuicConfig { limit: Some(limit), ..config }).await.unwrap()
}

/// Sends tensors at once. Returns how long they took; they must arrive whole.
async fn time(limit: LinkLimit, count: u32, bytes: usize) -> Duration {
    // Memory could be shared, and must not be.
    let cluster = Cluster::of_one_host();
    let (a, b) = (limited(&cluster, "a", limit).await, limited(&cluster, "b", limit).await);
    let (first, mut second) = join_openly(&a, &b).await;
    let frames: Vec<_> = (0..count).map(|number| tensor(number, bytes)).collect();
    let start = Instant::now();
    for frame in &frames {
        first.sender.send_tensor(frame.clone()).await.unwrap();
    }
    for _ in 0..count {
        let found = within(second.tensors.tensor()).await.unwrap();
        assert!(frames.contains(&found), "{:?}", found.header);
    }
    assert_eq!(first.sender.kind(), LinkKind::Quic);
    start.elapsed()
}

#[tokio::test]
async fn a_limited_link_takes_the_time_of_its_bytes_and_the_delay() {
    let limit = LinkLimit { bytes_per_second: 20e6, delay: Duration::from_millis(50) };
    let took = time(limit, 4, 1_000_000).await;
    assert!(took >= Duration::from_millis(250), "{took:?}");
}

#[tokio::test]
async fn tensors_of_a_limited_link_are_under_way_side_by_side() {
    let (delay, count) = (Duration::from_millis(200), 20);
    let took = time(LinkLimit { bytes_per_second: 100e6, delay }, count, 0).await;
    // One after the other would be four seconds.
    assert!(took >= delay && took < delay * count, "{took:?}");
}
