//! TCP with the TLS that QUIC has: what most programs would use, at its best, with a blocking thread at either end and
//! buffers that are used again.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::{BenchError, IN_FLIGHT, Streamed, Subject};
use crate::identity::ClusterAuthority;
use crate::identity::tls::{self, Anonymous};
use crate::{PeerName, WorkerName};

/// Bytes of a tensor's length.
const LENGTH_BYTES: usize = 8;

/// How long either end may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// A connection, whose receiving end has a thread of its own.
pub(super) struct TcpSubject {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// A tensor has arrived.
    arrived: Receiver<()>,
    payload: Vec<u8>,
    _receiver: JoinHandle<io::Result<()>>,
}

impl TcpSubject {
    pub(super) fn new() -> Result<Self, BenchError> {
        let authority = ClusterAuthority::ephemeral()?;
        let identity = |name: &str| authority.local_worker_identity(&WorkerName::nearest(name));
        let protocol = || b"bench".to_vec();
        let client = tls::client_config(&identity("a")?, protocol())?;
        let server = tls::server_config(&identity("b")?, vec![protocol()], Anonymous::Refused)?;
        let name = PeerName::Worker(WorkerName::nearest("b")).dns_name();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let (other, _) = listener.accept()?;
        for socket in [&socket, &other] {
            socket.set_nodelay(true)?;
        }
        socket.set_write_timeout(Some(SILENCE))?;
        let client = ClientConnection::new(Arc::new(client), name).map_err(io::Error::other)?;
        let server = ServerConnection::new(Arc::new(server)).map_err(io::Error::other)?;
        let (arrivals, arrived) = mpsc::channel();
        let receiver = std::thread::spawn(move || receive(StreamOwned::new(server, other), &arrivals));
        let stream = StreamOwned::new(client, socket);
        Ok(Self { stream, arrived, payload: Vec::new(), _receiver: receiver })
    }

    fn send(&mut self, bytes: usize) -> io::Result<()> {
        if self.payload.len() != bytes {
            self.payload = vec![7; bytes];
        }
        self.stream.write_all(&(bytes as u64).to_le_bytes())?;
        self.stream.write_all(&self.payload)?;
        self.stream.flush()
    }

    fn await_arrival(&self) -> io::Result<()> {
        self.arrived.recv_timeout(SILENCE).map_err(io::Error::other)
    }
}

impl Subject for TcpSubject {
    fn stream(&mut self, bytes: usize, time: Duration) -> Result<Streamed, BenchError> {
        let (start, mut sent, mut tensors) = (Instant::now(), 0, 0);
        while start.elapsed() < time {
            while sent - tensors >= IN_FLIGHT as u64 {
                self.await_arrival()?;
                tensors += 1;
            }
            self.send(bytes)?;
            sent += 1;
        }
        while tensors < sent {
            self.await_arrival()?;
            tensors += 1;
        }
        Ok(Streamed { tensors, elapsed: start.elapsed(), heartbeats: Vec::new() })
    }

    fn one_by_one(&mut self, bytes: usize, time: Duration) -> Result<Vec<Duration>, BenchError> {
        let (start, mut latencies) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            let begin = Instant::now();
            self.send(bytes)?;
            self.await_arrival()?;
            latencies.push(begin.elapsed());
        }
        Ok(latencies)
    }
}

/// Reads tensors until the connection ends.
fn receive(mut stream: StreamOwned<ServerConnection, TcpStream>, arrivals: &Sender<()>) -> io::Result<()> {
    let (mut length, mut payload) = ([0; LENGTH_BYTES], Vec::new());
    loop {
        stream.read_exact(&mut length)?;
        payload.resize(u64::from_le_bytes(length) as usize, 0);
        stream.read_exact(&mut payload)?;
        if arrivals.send(()).is_err() {
            return Ok(());
        }
    }
}
