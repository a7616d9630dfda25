//! What a faulty network does, on a paused clock.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::TensorName;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Change, Direction, FaultScript, Faults, FaultyNetwork, wrap};
use crate::PeerName;
use crate::conformance::{tensor, within};
use crate::in_process::{End, pair};
use crate::link::{AdmitEverything, CloseReason, Farewell, Link};

const SECOND: Duration = Duration::from_secs(1);

fn faulty(script: FaultScript) -> (Link, Link, FaultyNetwork) {
    let end = |name| End { name: PeerName::worker(name).unwrap(), admission: Arc::new(AdmitEverything) };
    let (first, second) = pair(end("a"), end("b"));
    wrap(first, second, script)
}

/// The order in which 30 tensors come through a network that lets them overtake each other.
async fn order(seed: u64) -> Vec<u32> {
    let faults = Faults { jitter: SECOND, ..Faults::default() };
    let (first, mut second, _network) = faulty(FaultScript::both_ways(seed, &faults));
    for number in 0..30 {
        first.sender.send_tensor(tensor(number, 10)).await.unwrap();
    }
    let mut order = Vec::new();
    while order.len() < 30 {
        let frame = within(second.tensors.tensor()).await.unwrap();
        let TensorName::Latents(step) = frame.header.name else { panic!("another tensor") };
        order.push(step.0);
    }
    order
}

#[tokio::test(start_paused = true)]
async fn tensors_overtake_each_other_as_the_seed_says() {
    let sorted: Vec<u32> = (0..30).collect();
    let once = order(7).await;
    assert_ne!(once, sorted);
    assert_eq!(once, order(7).await);
    assert_ne!(once, order(8).await);
}

#[tokio::test(start_paused = true)]
async fn a_slow_direction_takes_its_time_and_the_other_does_not() {
    let slow = Faults { bytes_per_second: NonZeroU64::new(1 << 20), delay: SECOND / 10, ..Faults::default() };
    let change = Change { after: Duration::ZERO, direction: Direction::FirstToSecond, faults: slow };
    let script = FaultScript { changes: vec![change], ..FaultScript::perfect(1) };
    let (mut first, mut second, _network) = faulty(script);
    let start = Instant::now();
    for number in 0..3 {
        first.sender.send_tensor(tensor(number, 1 << 20)).await.unwrap();
    }
    second.sender.send_tensor(tensor(9, 1 << 20)).await.unwrap();
    within(first.tensors.tensor()).await.unwrap();
    assert!(start.elapsed() < SECOND / 10);
    for _ in 0..3 {
        within(second.tensors.tensor()).await.unwrap();
    }
    let took = start.elapsed().as_secs_f64();
    assert!((3.1..3.2).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_short_cut_delays_and_loses_nothing() {
    let (first, mut second, network) = faulty(FaultScript::perfect(1));
    network.cut(Direction::FirstToSecond);
    first.sender.send_control(Bytes::from_static(b"held")).await.unwrap();
    assert!(timeout(SECOND, second.control.control()).await.is_err());
    network.heal();
    assert_eq!(within(second.control.control()).await.unwrap(), "held");
    assert_eq!((first.sender.close_reason(), second.sender.close_reason()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_leaves_the_other_way_open() {
    let (mut first, mut second, network) = faulty(FaultScript::perfect(1));
    network.cut(Direction::FirstToSecond);
    second.sender.send_control(Bytes::from_static(b"passes")).await.unwrap();
    assert_eq!(within(first.control.control()).await.unwrap(), "passes");
    first.sender.send_control(Bytes::from_static(b"does not")).await.unwrap();
    assert!(timeout(SECOND, second.control.control()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn both_ends_count_each_other_as_lost_after_a_long_cut() {
    let start = Instant::now();
    let (first, mut second, network) = faulty(FaultScript::perfect(1));
    network.cut_both();
    assert!(matches!(within(first.sender.closed()).await, CloseReason::PeerLost { .. }));
    assert!(matches!(within(second.sender.closed()).await, CloseReason::PeerLost { .. }));
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!(within(second.control.control()).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_farewell_does_not_pass_a_cut() {
    let (first, second, network) = faulty(FaultScript::perfect(1));
    network.cut_both();
    first.sender.close(Farewell::Done);
    assert!(matches!(within(second.sender.closed()).await, CloseReason::PeerLost { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_change_comes_when_the_script_says() {
    let faults = Faults { cut: true, ..Faults::default() };
    let change = Change { after: SECOND * 10, direction: Direction::SecondToFirst, faults };
    let script = FaultScript { changes: vec![change], ..FaultScript::perfect(1) };
    let start = Instant::now();
    let (mut first, second, _network) = faulty(script);
    second.sender.send_control(Bytes::from_static(b"in time")).await.unwrap();
    assert_eq!(within(first.control.control()).await.unwrap(), "in time");
    assert!(matches!(within(second.sender.closed()).await, CloseReason::PeerLost { .. }));
    assert_eq!(start.elapsed().as_secs(), 12);
}
