//! Tensors on the data connection: a stream each, with the header's length, the header and the raw bytes.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::TensorName;
use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::endpoint::TENSORS_IN_FLIGHT;
use super::limit::LimitedLink;
use crate::link::{
    Admitted, CloseReason, Core, Delivery, HEADER_LIMIT_BYTES, Incoming, LENGTH_BYTES, Misbehaviour, OutgoingTensor,
    Pump, TensorFrame, decode_header,
};

/// The code with which a receiver stops the stream of a tensor that came too late.
const STOPPED_LATE: VarInt = VarInt::from_u32(2);

/// The priority of parameters' streams: whatever a job sends, whose streams have 0, overtakes them. That alone is not enough, since it orders
/// only what is in the connection's window, and quinn goes on with a stream that it has begun for as long as more of it is there.
const GIVES_WAY: i32 = -1;

/// Bytes of a parameter after which what is urgent has its turn: a sixth of the connection's window.
const PIECE_BYTES: usize = 1 << 20;

/// How long a piece of a parameter gives way at most: then 20 MB/s are left for parameters on a link that jobs fill.
const GIVES_WAY_FOR: Duration = Duration::from_millis(50);

/// Writes each tensor on a stream of its own, several at the same time, unless shared memory takes it.
pub(super) struct ToStreams {
    core: Arc<Core>,
    connection: Connection,
    limited: Option<LimitedLink>,
    in_flight: JoinSet<()>,
    /// One parameter is written at a time.
    one_at_a_time: Arc<Semaphore>,
    /// Other tensors on their way. Written is not enough: in the window they wait for what was begun before.
    urgent: watch::Sender<usize>,
}

/// Counts a tensor as urgent.
struct Urgent(watch::Sender<usize>);

impl Urgent {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl ToStreams {
    pub(super) fn new(core: Arc<Core>, connection: Connection, limited: Option<LimitedLink>) -> Self {
        let (in_flight, one_at_a_time) = (JoinSet::new(), Arc::new(Semaphore::new(1)));
        Self { core, connection, limited, in_flight, one_at_a_time, urgent: watch::Sender::new(0) }
    }

    /// Waits until the peer has all tensors that are in flight.
    pub(super) async fn finish(mut self) {
        while self.in_flight.join_next().await.is_some() {}
    }
}

impl Pump<OutgoingTensor> for ToStreams {
    async fn pass(&mut self, tensor: OutgoingTensor) -> Delivery {
        let unsent = match self.core.lane() {
            Some(lane) => lane.send(tensor).await.err(),
            None => Some(tensor),
        };
        let Some(tensor) = unsent else { return Delivery::Passed };
        let bytes = tensor.header_frame.len() + tensor.frame.payload.len();
        let arrival = self.limited.as_mut().map(|limited| limited.send(bytes));
        while self.in_flight.try_join_next().is_some() {}
        if self.in_flight.len() >= TENSORS_IN_FLIGHT as usize {
            self.in_flight.join_next().await;
        }
        // Waits for the peer's leave to open another stream: that is its bound on what it holds for us.
        let Ok(mut stream) = self.connection.open_uni().await else { return Delivery::Stopped };
        if let TensorName::Weight(_) = tensor.frame.header.name {
            // Fails only if the connection is gone, as what follows will tell.
            let _ = stream.set_priority(GIVES_WAY);
            let (one_at_a_time, urgent) = (Arc::clone(&self.one_at_a_time), self.urgent.subscribe());
            self.in_flight.spawn(async move {
                // It is never closed.
                let turn = one_at_a_time.acquire_owned().await;
                let written = write_giving_way(&mut stream, tensor, arrival, urgent).await;
                drop(turn);
                finish(stream, written).await;
            });
        } else {
            let urgent = Urgent::new(&self.urgent);
            self.in_flight.spawn(async move {
                let written = write(&mut stream, tensor, arrival).await;
                finish(stream, written).await;
                drop(urgent);
            });
        }
        Delivery::Passed
    }
}

/// Waits until the peer has a tensor that was written. An error means that the peer stopped the stream, for the tensor came late, or that the
/// connection is gone. The first is counted by the peer and the second is known to whoever watches the connection.
async fn finish(mut stream: SendStream, written: Result<(), WriteError>) {
    if written.is_ok() && stream.finish().is_ok() {
        let _ = stream.stopped().await;
    }
}

/// Writes a parameter piece by piece, each when nothing urgent is on its way, or has been for long enough.
async fn write_giving_way(
    stream: &mut SendStream,
    mut tensor: OutgoingTensor,
    arrival: Option<oneshot::Receiver<()>>,
    mut urgent: watch::Receiver<usize>,
) -> Result<(), WriteError> {
    // On a limited link the limit says what arrives when, and it knows one order only.
    while arrival.is_none() && tensor.frame.payload.len() > PIECE_BYTES {
        let piece = tensor.frame.payload.split_to(PIECE_BYTES);
        stream.write_all_chunks(&mut [std::mem::take(&mut tensor.header_frame), piece]).await?;
        // The sender lives as long as the link's carrier, which ends this task.
        let _ = tokio::time::timeout(GIVES_WAY_FOR, urgent.wait_for(|&urgent| urgent == 0)).await;
    }
    write(stream, tensor, arrival).await
}

/// Writes a tensor. On a limited link its last byte is held until the tensor may arrive: the others go ahead as fast as they can, so that the
/// limit and the machine's own speed do not add up.
async fn write(
    stream: &mut SendStream,
    tensor: OutgoingTensor,
    arrival: Option<oneshot::Receiver<()>>,
) -> Result<(), WriteError> {
    let OutgoingTensor { mut header_frame, frame, .. } = tensor;
    let mut payload = frame.payload;
    let Some(arrival) = arrival else { return stream.write_all_chunks(&mut [header_frame, payload]).await };
    let whole = if payload.is_empty() { &mut header_frame } else { &mut payload };
    let last = whole.split_off(whole.len().saturating_sub(1));
    stream.write_all_chunks(&mut [header_frame, payload]).await?;
    // An error means that the link is gone, as what follows will tell.
    let _ = arrival.await;
    stream.write_all_chunks(&mut [last]).await
}

/// Reads tensors until the connection ends or the peer misbehaves.
pub(super) async fn read(connection: Connection, incoming: Incoming) {
    // quinn lets the peer open a new stream as soon as an old one was read, even if the tensor still waits for room in
    // the user's queue; the permits bound those too.
    let permits = Arc::new(Semaphore::new(TENSORS_IN_FLIGHT as usize));
    let mut readers = JoinSet::new();
    // The semaphore is never closed: the loop ends with the connection.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        while readers.try_join_next().is_some() {}
        let Ok(stream) = connection.accept_uni().await else { break };
        let incoming = incoming.clone();
        readers.spawn(async move {
            if let Err(misbehaviour) = read_tensor(stream, &incoming).await {
                incoming.core.finish(CloseReason::PeerMisbehaved(misbehaviour));
            }
            drop(permit);
        });
    }
    while readers.join_next().await.is_some() {}
}

/// Reads one tensor and hands it on. A stream that stands still holds one of the peer's own few streams; the
/// connection's idle timeout is its deadline.
async fn read_tensor(mut stream: RecvStream, incoming: &Incoming) -> Result<(), Misbehaviour> {
    let Some(header_bytes) = read_header(&mut stream).await? else { return Ok(()) };
    let (header, payload_bytes) = decode_header(&header_bytes)?;
    if incoming.check(&header)? == Admitted::Late {
        // Fails only if the stream is gone already.
        let _ = stream.stop(STOPPED_LATE);
        return Ok(());
    }
    let described = || format!("{:?}", header.name);
    let Some(payload) = read_payload(&mut stream, payload_bytes)
        .await
        .map_err(|found| Misbehaviour::payload_length(&described(), payload_bytes, found))?
    else {
        return Ok(());
    };
    incoming.deliver_tensor(TensorFrame { header, payload }, LENGTH_BYTES + header_bytes.len()).await;
    Ok(())
}

/// The header's bytes, or `None` if the connection ended.
async fn read_header(stream: &mut RecvStream) -> Result<Option<Vec<u8>>, Misbehaviour> {
    let cut_short = || Misbehaviour::malformed("tensor header", "the stream ended within it");
    let mut length = [0; LENGTH_BYTES];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::ReadError(_)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(cut_short()),
    }
    let length = Misbehaviour::checked_length("tensor header", length, HEADER_LIMIT_BYTES)?;
    let mut header = vec![0; length];
    match stream.read_exact(&mut header).await {
        Ok(()) => Ok(Some(header)),
        Err(ReadExactError::ReadError(_)) => Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => Err(cut_short()),
    }
}

/// Reads exactly the announced bytes into memory that is not zeroed before. `None` if the sender gave up or the
/// connection ended; an error says what came instead.
async fn read_payload(stream: &mut RecvStream, payload_bytes: u64) -> Result<Option<Bytes>, String> {
    // decode_header bounded the length by TENSOR_LIMIT_BYTES, and the admission agreed to it.
    let wanted = payload_bytes as usize;
    let mut payload = BytesMut::with_capacity(wanted);
    while payload.len() < wanted {
        let missing = wanted - payload.len();
        match stream.read_buf(&mut (&mut payload).limit(missing)).await {
            Ok(0) => return Err(format!("{} bytes", payload.len())),
            Ok(_) => {}
            Err(_) => return Ok(None),
        }
    }
    match stream.read(&mut [0]).await {
        Ok(None) => Ok(Some(payload.freeze())),
        Ok(Some(_)) => Err("more bytes".to_owned()),
        Err(_) => Ok(None),
    }
}
