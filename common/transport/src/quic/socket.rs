//! The UDP sockets under the endpoints: large buffers, and a bound on segmentation offload.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};

use super::driver::Driver;

/// Bytes asked for a socket's receive and send buffers. A burst of one stream window must fit, or the kernel drops
/// packets that the network had already carried.
pub(super) const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The largest UDP payload between processes of one host that share no memory: what an IPv6 packet of the loopback interface holds. Against
/// [`JUMBO_DATAGRAM_BYTES`] it saves a third of the CPU time.
const LOOPBACK_DATAGRAM_BYTES: u16 = 65_480;

/// The largest UDP payload on a network: an Ethernet jumbo frame's, found by discovery where the network has it. 1452 to
/// 8952 bytes doubles to triples the throughput and saves more than half of the CPU time.
const JUMBO_DATAGRAM_BYTES: u16 = 8952;

/// The most bytes of one UDP send, however many segments it is cut into.
const MAX_SEND_BYTES: u16 = 65_507;

/// The largest UDP payload that an endpoint of the given address sends and accepts. How many of them are sent at once follows from it, so an
/// endpoint that reaches other hosts cannot have loopback's: it would send each packet of a network by itself.
pub(super) fn max_datagram_bytes(address: SocketAddr) -> u16 {
    if address.ip().is_loopback() { LOOPBACK_DATAGRAM_BYTES } else { JUMBO_DATAGRAM_BYTES }
}

/// Opens a socket of the given address and wraps it for quinn.
pub(super) fn open(address: SocketAddr, driver: &Driver) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // Where a system cannot do both, IPv6 alone still serves.
        if let Err(error) = socket.set_only_v6(false) {
            tracing::debug!(%error, %address, "the socket serves IPv6 only");
        }
    }
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    let granted = socket.recv_buffer_size()?;
    if granted < SOCKET_BUFFER_BYTES {
        tracing::info!(
            %address,
            granted_bytes = granted,
            "the system limits the socket's buffer, which costs throughput; \
             raise it with `sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES} net.core.wmem_max={SOCKET_BUFFER_BYTES}`"
        );
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(Arc::new(CappedSocket {
        socket: driver.wrap_udp_socket(socket.into())?,
        datagram_bytes: max_datagram_bytes(address),
    }))
}

/// A socket that never puts more into one send than UDP allows.
///
/// quinn sends up to ten segments at once. Ten of 8952 bytes are over [`MAX_SEND_BYTES`]: the kernel answers EMSGSIZE,
/// quinn takes that for a failed probe of the path, and the packet size falls to 1200 bytes without a word.
struct CappedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    datagram_bytes: u16,
}

impl AsyncUdpSocket for CappedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(usize::from(MAX_SEND_BYTES / self.datagram_bytes))
    }

    /// What quinn multiplies the largest payload with for the size of one receive buffer, of which it has 32. All segments of one receive together
    /// are below 64 KiB, however small each is: this many of the largest hold them, and the 64 that the kernel may join would spread
    /// the buffers over 18 MiB.
    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments().min(usize::from(u16::MAX / self.datagram_bytes + 1))
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

impl fmt::Debug for CappedSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("CappedSocket").field(&self.socket).finish()
    }
}
