//! Peers that do not follow the protocol, and those that speak none.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use asyncdiff_common::codec;
use asyncdiff_common::wire::{DType, TensorHeader};
use quinn::Connection;
use tokio::runtime::Handle;

use super::{Cluster, LOOPBACK, join_openly};
use crate::PeerName;
use crate::conformance::{noise, tensor, until, within};
use crate::link::{Admission, AdmitEverything, CloseReason, Farewell, Link, Misbehaviour, Refusal};
use crate::quic::carrier::Connections;
use crate::quic::dial::{self, Target};
use crate::quic::endpoint::Endpoints;
use crate::quic::failure::{Failure, classify};
use crate::quic::socket::max_datagram_bytes;
use crate::quic::{ConnectError, QuicConfig, QuicNode, WIRE_VERSION};

/// Accepts up to a mebibyte.
struct Small;

impl Admission for Small {
    fn admit(&self, _peer: &PeerName, header: &TensorHeader) -> Result<(), Refusal> {
        match header.payload_bytes() {
            Some(found_bytes) if found_bytes > 1 << 20 => Err(Refusal::TooLarge { found_bytes, limit_bytes: 1 << 20 }),
            _ => Ok(()),
        }
    }
}

/// A proper node's end of a link whose other end has bare hands.
struct Stranger {
    link: Link,
    hands: Connections,
    _node: QuicNode,
}

impl Stranger {
    async fn new() -> Self {
        Self::that_listens_at(LOOPBACK).await
    }

    async fn that_listens_at(address: IpAddr) -> Self {
        let cluster = Cluster::new();
        let node = cluster.worker("b").await;
        let address = SocketAddr::new(address, 0);
        let config =
            QuicConfig { control_address: address, data_address: address, ..cluster.config(cluster.identity("a")) };
        let endpoints = Endpoints::open(&config, &Handle::current()).unwrap();
        let target = Target {
            peer: PeerName::worker("b").unwrap(),
            control_address: node.control_address(),
            data_address: node.data_address(),
        };
        let accepting = async { node.accept().await.unwrap().accept(Arc::new(Small)) };
        let (hands, link) = within(async { tokio::join!(dial::make(endpoints, target), accepting) }).await;
        Self { link, hands: hands.unwrap(), _node: node }
    }

    async fn write_control(&mut self, bytes: &[u8]) {
        self.hands.control_streams.0.write_all(bytes).await.unwrap();
    }

    /// Writes a whole data stream.
    async fn write_data(&self, parts: &[&[u8]]) {
        let mut stream = self.hands.data.open_uni().await.unwrap();
        for part in parts {
            stream.write_all(part).await.unwrap();
        }
        stream.finish().unwrap();
    }

    /// How the node sees the stranger's misbehaviour, having checked that the stranger hears the same.
    async fn accused_of(&self) -> Misbehaviour {
        let reason = within(self.link.sender.closed()).await;
        let CloseReason::PeerMisbehaved(misbehaviour) = reason else { panic!("{reason}") };
        let heard = async |connection: &Connection| classify(&within(connection.closed()).await);
        let accusation = Failure::Farewell(Farewell::Misbehaviour(misbehaviour.clone()));
        assert_eq!(heard(&self.hands.control).await, accusation);
        assert_eq!(heard(&self.hands.data).await, accusation);
        misbehaviour
    }
}

fn header_frame(header: &TensorHeader) -> Vec<u8> {
    let header = codec::encode(header).unwrap();
    [&(header.len() as u32).to_le_bytes()[..], &header].concat()
}

#[tokio::test]
async fn a_control_frame_that_is_too_long_ends_the_link() {
    let mut stranger = Stranger::new().await;
    stranger.write_control(&u32::MAX.to_le_bytes()).await;
    let accusation = stranger.accused_of().await;
    assert!(matches!(accusation, Misbehaviour::FrameTooLong { found_bytes: 0xffff_ffff, .. }), "{accusation}");
}

#[tokio::test]
async fn a_control_frame_that_is_cut_short_ends_the_link() {
    let mut stranger = Stranger::new().await;
    stranger.write_control(&[100, 0, 0, 0, 1, 2, 3]).await;
    stranger.hands.control_streams.0.finish().unwrap();
    assert!(matches!(stranger.accused_of().await, Misbehaviour::Malformed { .. }));
}

#[tokio::test]
async fn a_tensor_header_that_is_too_long_ends_the_link() {
    let stranger = Stranger::new().await;
    stranger.write_data(&[&5000u32.to_le_bytes(), &[0; 5000]]).await;
    assert!(matches!(stranger.accused_of().await, Misbehaviour::FrameTooLong { found_bytes: 5000, .. }));
}

#[tokio::test]
async fn a_tensor_that_is_too_large_is_refused_before_its_payload() {
    let stranger = Stranger::new().await;
    let header = TensorHeader { shape: vec![1 << 28], dtype: DType::F32, ..tensor(1, 0).header };
    // The gibibyte is never sent: the refusal comes from the header alone.
    let mut stream = stranger.hands.data.open_uni().await.unwrap();
    stream.write_all(&header_frame(&header)).await.unwrap();
    let accusation = stranger.accused_of().await;
    let refusal = Refusal::TooLarge { found_bytes: 1 << 30, limit_bytes: 1 << 20 };
    assert!(matches!(&accusation, Misbehaviour::Refused { refusal: given, .. } if *given == refusal), "{accusation}");
}

#[tokio::test]
async fn a_payload_of_another_length_ends_the_link() {
    for bytes in [99, 101] {
        let stranger = Stranger::new().await;
        stranger.write_data(&[&header_frame(&tensor(1, 100).header), &vec![0; bytes]]).await;
        let accusation = stranger.accused_of().await;
        assert!(matches!(accusation, Misbehaviour::PayloadLength { expected_bytes: 100, .. }), "{accusation}");
    }
}

#[tokio::test]
async fn random_bytes_on_a_stream_end_the_link() {
    for seed in 0..8 {
        let stranger = Stranger::new().await;
        let random = noise(seed, 200);
        let framed = [&[196, 0, 0, 0], &random[..196]].concat();
        let bytes = if seed % 2 == 0 { &random[..] } else { &framed[..] };
        stranger.write_data(&[bytes]).await;
        stranger.accused_of().await;
    }
}

#[tokio::test]
async fn an_abandoned_tensor_harms_nobody() {
    let mut stranger = Stranger::new().await;
    let mut stream = stranger.hands.data.open_uni().await.unwrap();
    stream.write_all(&header_frame(&tensor(1, 100).header)).await.unwrap();
    stream.reset(9u32.into()).unwrap();
    let whole = tensor(2, 50);
    stranger.write_data(&[&header_frame(&whole.header), &whole.payload]).await;
    assert_eq!(within(stranger.link.tensors.tensor()).await.unwrap(), whole);
}

#[tokio::test]
async fn random_datagrams_disturb_no_link() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.worker("a").await, cluster.worker("b").await);
    let (first, mut second) = join_openly(&a, &b).await;
    let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    for seed in 0..300 {
        let datagram = noise(seed, 1 + (seed as usize * 53) % 1500);
        for address in [b.control_address(), b.data_address()] {
            socket.send_to(&datagram, address).unwrap();
        }
    }
    first.sender.send_tensor(tensor(1, 1 << 20)).await.unwrap();
    assert_eq!(within(second.tensors.tensor()).await.unwrap(), tensor(1, 1 << 20));
    assert_eq!(second.sender.close_reason(), None);
}

#[tokio::test]
async fn a_peer_of_another_version_is_named_as_such() {
    let cluster = Cluster::new();
    let a = cluster.worker("a").await;
    let newer = QuicNode::start(crate::quic::QuicConfig {
        wire_version: WIRE_VERSION + 1,
        ..cluster.config(cluster.identity("b"))
    });
    let newer = newer.await.unwrap();
    let name = PeerName::worker("b").unwrap();
    let dialling = a.connect(&name, newer.control_address(), newer.data_address(), Arc::new(AdmitEverything));
    let error = within(dialling).await.err().unwrap();
    assert!(matches!(error, ConnectError::VersionMismatch { .. }), "{error}");
}

#[tokio::test]
async fn half_a_link_is_given_up_at_the_deadline() {
    let cluster = Cluster::impatient();
    let node = cluster.worker("b").await;
    let endpoints = Endpoints::open(&cluster.config(cluster.identity("a")), &Handle::current()).unwrap();
    let name = PeerName::worker("b").unwrap().dns_name();
    let connection = endpoints.control.connect_with(endpoints.dial_control, node.control_address(), &name).unwrap();
    let connection = within(connection).await.unwrap();
    let (mut stream, _answers) = connection.open_bi().await.unwrap();
    stream.write_all(&[1; 16]).await.unwrap();
    let closed = tokio::select! {
        error = within(connection.closed()) => classify(&error),
        _ = node.accept() => panic!("half a link was accepted"),
    };
    assert!(matches!(closed, Failure::Farewell(Farewell::Failed { .. })), "{closed:?}");
}

/// Guards against a silent loss of two thirds of the throughput: see `CappedSocket`.
#[tokio::test]
async fn bulk_travels_in_datagrams_as_large_as_the_network_has_them() {
    for address in [LOOPBACK, IpAddr::V4(Ipv4Addr::UNSPECIFIED)] {
        let mut stranger = Stranger::that_listens_at(address).await;
        for number in 0..16 {
            let frame = tensor(number, 1 << 20);
            stranger.write_data(&[&header_frame(&frame.header), &frame.payload]).await;
            within(stranger.link.tensors.tensor()).await.unwrap();
        }
        let found = || stranger.hands.data.stats().path.current_mtu;
        until(|| found() == max_datagram_bytes(SocketAddr::new(address, 0))).await;
    }
}
