//! How memory comes to be shared, or not.

#![allow(unsafe_code)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::thread::UnshareFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::channels;
use crate::conformance::{noise, within};
use crate::shm::RING_BYTES;
use crate::shm::handshake::{HandshakeError, dialler_proof, socket_path};
use crate::shm::memory::OwnMemory;
use crate::shm::ring::Ring;
use crate::shm::{OFFER_BYTES, Offer, take_up};

async fn connect(offer: &[u8; OFFER_BYTES]) -> UnixStream {
    UnixStream::connect(socket_path(offer)).await.unwrap()
}

/// Says something with descriptors, as a stranger's process could.
fn say(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(files.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(files)));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
}

#[tokio::test]
async fn each_end_reads_what_the_other_writes() {
    let (first, second) = within(channels()).await;
    for (from, to) in [(first.own, second.peer), (second.own, first.peer)] {
        let payload = noise(1, 100_000);
        let sent = Ring::new(from).send(&payload, RING_BYTES).await.unwrap();
        assert_eq!(to.bytes(sent.offset..sent.offset + payload.len()), payload);
    }
}

#[tokio::test]
async fn an_offer_of_another_host_or_one_that_was_withdrawn_is_refused_at_once() {
    // In another network namespace nobody has the name; here too, once it is given up.
    let offer = Offer::new().unwrap().to_wire();
    let start = std::time::Instant::now();
    let refused = within(take_up(&offer)).await.err().unwrap();
    assert!(matches!(&refused, HandshakeError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused));
    assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_process_of_another_network_namespace_does_not_find_the_socket() {
    let offer = Offer::new().unwrap();
    let wire = offer.to_wire();
    let elsewhere = std::thread::spawn(move || {
        // SAFETY: only this thread gets another network namespace; no memory and no descriptor is concerned.
        let left = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
        // Only the system's administrator may.
        left.ok()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Some(runtime.block_on(take_up(&wire)))
    });
    let Some(refused) = elsewhere.join().unwrap() else { return println!("not allowed to make a namespace: skipped") };
    assert!(matches!(refused, Err(HandshakeError::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused));
}

#[tokio::test(start_paused = true)]
async fn an_acceptor_that_says_nothing_is_given_up_at_the_deadline() {
    let offer = Offer::new().unwrap();
    let refused = within(take_up(&offer.to_wire())).await.err().unwrap();
    assert!(matches!(refused, HandshakeError::TimedOut), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_offer_that_nobody_takes_up_ends_at_the_deadline() {
    let refused = within(Offer::new().unwrap().accept()).await.err().unwrap();
    assert!(matches!(refused, HandshakeError::TimedOut), "{refused}");
}

#[tokio::test]
async fn strangers_are_turned_away_and_the_peer_gets_through() {
    let offer = Offer::new().unwrap();
    let wire = offer.to_wire();
    let own = OwnMemory::new().unwrap();
    let (silent, wrong) = (connect(&wire).await, connect(&wire).await);
    say(&wrong, &[7; blake3::OUT_LEN], &[own.file()]);
    let (accepted, dialled) = within(async { tokio::join!(offer.accept(), take_up(&wire)) }).await;
    assert!(accepted.is_ok() && dialled.is_ok());
    drop((silent, wrong));
}

#[tokio::test]
async fn a_peer_that_passes_no_descriptor_or_several_is_turned_away() {
    let own = OwnMemory::new().unwrap();
    for count in [0, 2, 8] {
        let offer = Offer::new().unwrap();
        let wire = offer.to_wire();
        let mut peer = connect(&wire).await;
        say(&peer, dialler_proof(&wire).as_bytes(), &vec![own.file(); count]);
        let accepting = tokio::spawn(offer.accept());
        // Turned away: the socket is closed, and nothing is said.
        assert!(within(peer.read_u8()).await.is_err());
        accepting.abort();
    }
}

#[tokio::test]
async fn who_binds_the_name_later_is_not_believed() {
    let offer = Offer::new().unwrap();
    let wire = offer.to_wire();
    drop(offer);
    let impostor = UnixListener::bind(socket_path(&wire)).unwrap();
    let answering = async {
        let (mut socket, _) = impostor.accept().await.unwrap();
        // It sends back the proof that it heard.
        let mut proof = [0; blake3::OUT_LEN];
        socket.read_exact(&mut proof).await.unwrap();
        say(&socket, &proof, &[OwnMemory::new().unwrap().file()]);
        socket
    };
    let (refused, _socket) = within(async { tokio::join!(take_up(&wire), answering) }).await;
    assert!(matches!(refused, Err(HandshakeError::Proof)));
}

#[tokio::test]
async fn a_dialler_that_gives_up_before_its_last_word_leaves_no_lane() {
    let offer = Offer::new().unwrap();
    let wire = offer.to_wire();
    let own = OwnMemory::new().unwrap();
    let mut peer = connect(&wire).await;
    say(&peer, dialler_proof(&wire).as_bytes(), &[own.file()]);
    let accepting = tokio::spawn(offer.accept());
    let mut answer = [0; blake3::OUT_LEN];
    within(peer.read_exact(&mut answer)).await.unwrap();
    peer.shutdown().await.unwrap();
    drop(peer);
    assert!(within(accepting).await.unwrap().is_err());
}
