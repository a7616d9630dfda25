//! A peer that passed the handshake and breaks the rules, or dies.

use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::TensorName;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{channels, hidden_state};
use crate::PeerName;
use crate::conformance::{noise, tensor, until, within};
use crate::link::{AdmitEverything, CloseReason, Incoming, Link, Misbehaviour, Outgoing, OutgoingTensor, open};
use crate::shm::message::{Message, Received, read};
use crate::shm::ring::Ring;
use crate::shm::{COPIED_OUT_BYTES, Lane, RING_BYTES, TENSORS_IN_FLIGHT, open_lane};

/// A proper end of a lane, whose other end has bare hands.
struct Victim {
    link: Link,
    lane: Lane,
    socket: UnixStream,
    ring: Arc<Ring>,
    _outgoing: Outgoing,
}

impl Victim {
    async fn new() -> Self {
        let (channel, hands) = within(channels()).await;
        let (link, outgoing, incoming) = open(PeerName::worker("a").unwrap(), None, Arc::new(AdmitEverything));
        let lane = start(channel, incoming);
        Self { link, lane, socket: hands.socket, ring: Ring::new(hands.own), _outgoing: outgoing }
    }

    async fn say(&mut self, messages: &[Message]) {
        let mut bytes = BytesMut::new();
        for message in messages {
            message.encode_into(&mut bytes).unwrap();
        }
        self.socket.write_all(&bytes).await.unwrap();
    }

    async fn close_reason(&self) -> CloseReason {
        within(self.link.sender.closed()).await
    }

    async fn accused_of(&self) -> Misbehaviour {
        let reason = self.close_reason().await;
        let CloseReason::PeerMisbehaved(misbehaviour) = reason else { panic!("{reason}") };
        misbehaviour
    }
}

/// Runs a lane's end.
fn start(channel: crate::shm::Channel, incoming: Incoming) -> Lane {
    let (lane, reader, writer) = open_lane(channel);
    tokio::spawn(reader.run(incoming));
    tokio::spawn(writer.run());
    lane
}

fn placed(ticket: u32, offset: u64, bytes: usize) -> Message {
    Message::Placed { ticket, offset, header: codec::encode(&hidden_state_header(bytes)).unwrap() }
}

fn hidden_state_header(bytes: usize) -> asyncdiff_common::wire::TensorHeader {
    let mut header = hidden_state(1, 0).header;
    header.shape = vec![1, bytes as u32];
    header
}

#[tokio::test]
async fn a_place_outside_of_the_ring_ends_the_link() {
    for (offset, bytes) in [(RING_BYTES as u64, 1), (u64::MAX, 1), (u64::MAX - 4, 8), (1, RING_BYTES), (0, 1 << 30)] {
        let mut victim = Victim::new().await;
        victim.say(&[placed(1, offset, bytes)]).await;
        let accusation = victim.accused_of().await;
        assert!(accusation.to_string().contains("outside of the ring"), "{accusation}");
    }
}

#[tokio::test]
async fn the_whole_ring_is_a_place() {
    let mut victim = Victim::new().await;
    victim.say(&[placed(1, 0, RING_BYTES)]).await;
    let frame = within(victim.link.tensors.tensor()).await.unwrap();
    assert!(frame.payload.len() == RING_BYTES && frame.payload[RING_BYTES - 1] == 0);
}

#[tokio::test]
async fn more_in_flight_than_allowed_ends_the_link() {
    let many = (0..=TENSORS_IN_FLIGHT as u32).map(|ticket| placed(ticket, 0, 1)).collect::<Vec<_>>();
    let large = vec![placed(0, 0, RING_BYTES), placed(1, 0, 1)];
    for messages in [many, large] {
        let mut victim = Victim::new().await;
        victim.say(&messages).await;
        assert!(victim.accused_of().await.to_string().contains("in flight"));
    }
}

#[tokio::test]
async fn a_release_of_what_was_not_sent_ends_the_link() {
    let mut victim = Victim::new().await;
    victim.say(&[Message::Released { tickets: vec![0] }]).await;
    assert!(victim.accused_of().await.to_string().contains("not in flight"));
}

#[tokio::test]
async fn a_second_release_ends_the_link() {
    let mut victim = Victim::new().await;
    let Ok(()) = victim.lane.send(OutgoingTensor::new(tensor(1, 10)).unwrap()).await else { panic!("there is room") };
    victim.say(&[Message::Released { tickets: vec![0, 0] }]).await;
    assert!(victim.accused_of().await.to_string().contains("not in flight"));
}

#[tokio::test]
async fn a_header_that_is_none_ends_the_link() {
    let mut victim = Victim::new().await;
    victim.say(&[Message::Placed { ticket: 1, offset: 0, header: vec![255; 30] }]).await;
    assert!(matches!(victim.accused_of().await, Misbehaviour::Malformed { .. }));
}

#[tokio::test]
async fn random_bytes_end_the_link() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut victim = Victim::new().await;
        let random = noise(seed, 200);
        let framed = [&[196, 0, 0, 0], &random[..196]].concat();
        let bytes = if seed % 2 == 0 { &random[..] } else { &framed[..] };
        victim.socket.write_all(bytes).await.unwrap();
        victim.socket.shutdown().await.unwrap();
        let reason = victim.close_reason().await;
        assert!(matches!(reason, CloseReason::PeerMisbehaved(_) | CloseReason::PeerLost { .. }), "{reason}");
    }
}

#[tokio::test]
async fn the_end_of_the_socket_is_the_end_of_the_peer_and_a_goodbye_is_not() {
    let Victim { link, socket, .. } = Victim::new().await;
    drop(socket);
    let reason = within(link.sender.closed()).await;
    assert!(matches!(reason, CloseReason::PeerLost { .. }), "{reason}");
    let mut polite = Victim::new().await;
    polite.say(&[placed(1, 0, 10), Message::Goodbye]).await;
    drop(polite.socket);
    assert_eq!(within(polite.link.tensors.tensor()).await.unwrap().payload.len(), 10);
    assert!(within(polite.link.tensors.tensor()).await.is_none(), "its reader has ended");
    assert_eq!(polite.link.sender.close_reason(), None, "the farewell comes over QUIC");
}

#[tokio::test]
async fn what_is_checked_after_it_came_cannot_be_changed_any_more() {
    let mut victim = Victim::new().await;
    let honest = tensor(5, 5000);
    let mut loan = victim.ring.lend(5000).unwrap();
    loan.copy_from_slice(&honest.payload);
    victim.say(&[Message::Placed { ticket: 1, offset: 0, header: codec::encode(&honest.header).unwrap() }]).await;
    let received = within(victim.link.tensors.tensor()).await.unwrap();
    loan.fill(0);
    assert_eq!(received, honest);
}

#[tokio::test]
async fn releases_are_told_together_and_large_ones_at_once() {
    let mut victim = Victim::new().await;
    let mut receive = async |first: u32, count: u32, bytes: usize| {
        let messages: Vec<Message> = (first..first + count).map(|ticket| placed(ticket, 0, bytes)).collect();
        victim.say(&messages).await;
        for _ in 0..count {
            within(victim.link.tensors.tensor()).await.unwrap();
        }
    };
    receive(0, 9, 10).await;
    receive(9, 1, 5 << 20).await;
    let mut told = Vec::new();
    for _ in 0..2 {
        match within(read(&mut victim.socket)).await.unwrap() {
            Received::Message(Message::Released { tickets }) => told.push(tickets),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(told, [(0..8).collect::<Vec<u32>>(), vec![8, 9]]);
}

#[tokio::test]
async fn what_comes_when_the_ring_is_half_full_is_copied_out() {
    let mut victim = Victim::new().await;
    let half = TENSORS_IN_FLIGHT as u32 / 2;
    let messages: Vec<Message> = (0..=half).map(|ticket| placed(ticket, 0, 10)).collect();
    victim.say(&messages).await;
    let mut kept = Vec::new();
    for _ in 0..=half {
        kept.push(within(victim.link.tensors.tensor()).await.unwrap());
    }
    let mut loan = victim.ring.lend(10).unwrap();
    loan.fill(1);
    assert_eq!([&kept[0].payload[..], &kept[half as usize].payload[..]], [[1; 10], [0; 10]]);
}

#[tokio::test(start_paused = true)]
async fn a_full_ring_is_waited_for_and_then_gone_around() {
    let mut victim = Victim::new().await;
    let half = |number| OutgoingTensor::new(hidden_state(number, RING_BYTES / 2)).unwrap();
    assert!(victim.lane.send(half(1)).await.is_ok() && victim.lane.send(half(2)).await.is_ok());
    let Err(unsent) = victim.lane.send(half(3)).await else { panic!("there is no room") };
    assert!(unsent.frame == hidden_state(3, RING_BYTES / 2), "it can take another way");
    let waiting = victim.lane.clone();
    let waiting = tokio::spawn(async move { waiting.send(half(3)).await.is_ok() });
    victim.say(&[Message::Released { tickets: vec![0] }]).await;
    assert!(within(waiting).await.unwrap(), "it goes as soon as there is room");
}

#[tokio::test(start_paused = true)]
async fn parameters_have_a_part_of_the_ring_and_what_a_job_sends_has_all() {
    let victim = Victim::new().await;
    let parameter = |number: u32, bytes| {
        let mut frame = tensor(number, bytes);
        frame.header.name = TensorName::Weight([number as u8; 32]);
        frame
    };
    let piece = COPIED_OUT_BYTES / 4;
    let send = async |frame| victim.lane.send(OutgoingTensor::new(frame).unwrap()).await.is_ok();
    for number in 0..4 {
        assert!(send(parameter(number, piece)).await);
    }
    assert!(!send(parameter(4, 1)).await);
    assert!(send(hidden_state(5, piece)).await && send(tensor(6, piece)).await);
    let large = OutgoingTensor::new(parameter(7, COPIED_OUT_BYTES + 1)).unwrap();
    assert!(Victim::new().await.lane.send(large).await.is_err());
}

#[tokio::test]
async fn what_was_lent_is_sent_without_a_copy_and_comes_back() {
    let mut victim = Victim::new().await;
    let payload = noise(3, 3 << 20);
    let mut loan = victim.lane.lend(payload.len()).unwrap();
    loan.copy_from_slice(&payload);
    let bytes: Bytes = loan.into_bytes();
    let address = bytes.as_ptr();
    let frame = crate::link::TensorFrame { payload: bytes, ..tensor(3, 3 << 20) };
    assert!(victim.lane.send(OutgoingTensor::new(frame).unwrap()).await.is_ok());
    // A copy would have left no room for all the rest of the ring.
    let rest = victim.lane.lend(RING_BYTES - (3 << 20)).unwrap();
    assert!(victim.lane.lend(1).is_none());
    victim.say(&[Message::Released { tickets: vec![0] }]).await;
    let lane = victim.lane.clone();
    until(|| lane.lend(3 << 20).is_some_and(|again| again.as_ptr() == address)).await;
    drop(rest);
    assert!(lane.lend(RING_BYTES).is_some());
}
