//! The two endpoints of a process and their transport settings, as measured.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, VarInt, congestion,
};
use tokio::runtime::Handle;

use super::config::{Congestion, LinkTiming, QuicConfig};
use super::driver::Driver;
use super::node::StartError;
use super::protocol::Protocol;
use super::socket::{self, SOCKET_BUFFER_BYTES};
use crate::identity::IdentityError;
use crate::identity::tls::{self, Anonymous};

/// Tensors that a peer may have in flight, each on a stream of its own. Twice what a component sends at a step; more
/// would only hold more memory at the receiver.
pub(super) const TENSORS_IN_FLIGHT: u32 = 64;

/// Bytes that may be sent and not yet acknowledged on a data connection, all of its streams together: the receiving
/// socket's buffer, for which the kernel counts twice what is asked for, and not more. With 40 MiB a receiver that was busy for a moment lost a
/// thousandth of the packets, and throughput over loopback fell from 2.5 to 1.3 GB/s. At a round trip of 2 ms it lets
/// 3 GB/s pass.
const DATA_SEND_WINDOW_BYTES: u64 = 6 << 20;

/// Bytes that a data connection may send before it has learnt anything about the path: one round trip carries a small
/// tensor.
const DATA_INITIAL_WINDOW_BYTES: u64 = 512 << 10;

/// A first guess of the round trip's time, for how soon a lost first packet is repeated. The default, 333 ms, is the
/// Internet's.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(10);

/// Packets of bulk that a receiver may take before it acknowledges them. Each acknowledgement costs both sides a packet and a
/// system call; quinn's default is one for every second packet. A congestion window is hundreds of packets, so that it
/// still hears of losses many times in a round trip.
const PACKETS_PER_ACKNOWLEDGEMENT: u32 = 30;

/// How long the acknowledgement of fewer packets may wait: the last packets of a tensor.
const ACKNOWLEDGEMENT_DELAY: Duration = Duration::from_millis(5);

/// Handshakes that an endpoint keeps waiting before it refuses more.
const WAITING_HANDSHAKES: usize = 64;

/// What a process dials and accepts with.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) control: Endpoint,
    pub(super) data: Endpoint,
    pub(super) dial_control: ClientConfig,
    pub(super) dial_data: ClientConfig,
}

impl Endpoints {
    /// Opens both: that for control is driven by the given runtime, that for data by the current one.
    pub(super) fn open(config: &QuicConfig, control: &Handle) -> Result<Self, StartError> {
        let control_transport = Arc::new(control_transport(&config.timing)?);
        let data_transport = Arc::new(data_transport(config)?);
        let dial = |protocol: Protocol, transport: &Arc<TransportConfig>| -> Result<ClientConfig, StartError> {
            let tls = tls::client_config(&config.identity, protocol.name(config.wire_version))?;
            client_config(tls, Arc::clone(transport))
        };
        let accept = |protocols: &[Protocol], anonymous, transport| -> Result<ServerConfig, StartError> {
            let names = protocols.iter().map(|protocol| protocol.name(config.wire_version)).collect();
            let tls = tls::server_config(&config.identity, names, anonymous)?;
            let tls = QuicServerConfig::try_from(tls).map_err(unusable)?;
            let mut server = ServerConfig::with_crypto(Arc::new(tls));
            server.transport_config(transport).max_incoming(WAITING_HANDSHAKES);
            Ok(server)
        };
        let accept_control = match config.enrolment {
            Some(_) => {
                accept(&[Protocol::Control, Protocol::Enrol], Anonymous::Allowed, Arc::clone(&control_transport))?
            }
            None => accept(&[Protocol::Control], Anonymous::Refused, Arc::clone(&control_transport))?,
        };
        let accept_data = accept(&[Protocol::Data], Anonymous::Refused, Arc::clone(&data_transport))?;
        Ok(Self {
            dial_control: dial(Protocol::Control, &control_transport)?,
            dial_data: dial(Protocol::Data, &data_transport)?,
            control: open_endpoint(config.control_address, Some(accept_control), control)?,
            data: open_endpoint(config.data_address, Some(accept_data), &Handle::current())?,
        })
    }
}

/// One endpoint, on a socket of our own making.
pub(super) fn open_endpoint(
    address: SocketAddr,
    accept: Option<ServerConfig>,
    runtime: &Handle,
) -> Result<Endpoint, StartError> {
    let driver = Arc::new(Driver(runtime.clone()));
    // The endpoint's own task is started where this is called.
    let _entered = runtime.enter();
    let failed = |source: io::Error| StartError::Socket { address, source };
    let socket = socket::open(address, &driver).map_err(failed)?;
    let mut endpoint_config = EndpointConfig::default();
    endpoint_config.max_udp_payload_size(socket::max_datagram_bytes(address)).map_err(unusable)?;
    Endpoint::new_with_abstract_socket(endpoint_config, accept, socket, driver).map_err(failed)
}

pub(super) fn client_config(
    tls: rustls::ClientConfig,
    transport: Arc<TransportConfig>,
) -> Result<ClientConfig, StartError> {
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(unusable)?));
    client.transport_config(transport);
    Ok(client)
}

/// Control connections and enrolment: small, seldom, soon.
pub(super) fn control_transport(timing: &LinkTiming) -> Result<TransportConfig, StartError> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(timing.control_idle).map_err(unusable)?))
        .keep_alive_interval(Some(timing.control_keep_alive))
        .initial_rtt(INITIAL_ROUND_TRIP)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

/// Data connections: bulk.
fn data_transport(config: &QuicConfig) -> Result<TransportConfig, StartError> {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(socket::max_datagram_bytes(config.data_address));
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements
        .ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACKNOWLEDGEMENT))
        .max_ack_delay(Some(ACKNOWLEDGEMENT_DELAY));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(config.timing.data_idle).map_err(unusable)?))
        .keep_alive_interval(Some(config.timing.data_keep_alive))
        .initial_rtt(INITIAL_ROUND_TRIP)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(TENSORS_IN_FLIGHT))
        .datagram_receive_buffer_size(None)
        // No larger than the socket's buffer, so that one stream's burst is never dropped by our own kernel. The
        // connection's window stays unlimited: a limit would let tensors that nobody reads block the others. What is in
        // flight is bounded by the streams.
        .stream_receive_window(VarInt::from_u32(SOCKET_BUFFER_BYTES as u32))
        .send_window(DATA_SEND_WINDOW_BYTES)
        // One tensor after the other: the first is complete sooner, the last no later.
        .send_fairness(false)
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acknowledgements));
    match config.congestion {
        Congestion::Bbr => {
            let mut bbr = congestion::BbrConfig::default();
            bbr.initial_window(DATA_INITIAL_WINDOW_BYTES);
            transport.congestion_controller_factory(Arc::new(bbr));
        }
        Congestion::Cubic => {
            let mut cubic = congestion::CubicConfig::default();
            cubic.initial_window(DATA_INITIAL_WINDOW_BYTES);
            transport.congestion_controller_factory(Arc::new(cubic));
        }
    }
    Ok(transport)
}

pub(super) fn unusable(error: impl ToString) -> StartError {
    StartError::Identity(IdentityError::Cryptography { doing: "set up QUIC", reason: error.to_string() })
}
