//! Probes: tensors that only have to arrive, and what their arrivals say about a link.
//!
//! ```text
//!   worker that measures                        worker at the other end
//!     PeerPath::measure ── Probe(n), Probe(n+1) … ──► reader of the accepted link: drops the bytes
//!     Arrivals ◄──────────── ProbeArrived { n } ────── says so
//! ```
//!
//! First a few tiny ones, one by one, for the latency; then some together, for what each takes from the cores; then batches, four times as large
//! from one to the next, until one takes long enough to be timed. What came before it has opened the link's congestion window by then.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use asyncdiff_common::wire::{DType, LinkMeasurement, PROBE_LIMIT_BYTES, TensorHeader, TensorName};
use asyncdiff_plan::{Epoch, JobId};
use asyncdiff_transport::link::{LinkError, LinkSender, TensorFrame};
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use crate::nccl::NcclSlot;

/// Round trips that the shortest is taken of: the first one also wakes both ends.
const TINY_PROBES: u32 = 5;

/// Round trips end after this long all the same: one of a slow link says enough.
const TINY_PROBES_WITHIN: Duration = Duration::from_millis(100);

/// Bytes of a probe that measures the latency.
const TINY_BYTES: u32 = 64;

/// Tiny probes that are sent together: about as many as a component sends in a step.
const TINY_BATCH: u32 = 16;

/// Bytes of the first batch: at 10 kB/s it takes three seconds, so that also such a link is measured within the deadline.
const FIRST_BATCH_BYTES: u32 = 32 << 10;

/// By how much each batch is larger than the one before.
const GROWTH: u32 = 4;

/// Bytes of the largest batch: 7 ms at 10 Gbit/s. Shared memory stays resident where it was once written, on both sides: a larger batch would
/// measure no better there and cost more than many a model's hidden states do.
const LAST_BATCH_BYTES: u32 = 8 << 20;

/// Probes of a batch at least: several are in flight, as hidden states are.
const BATCH_PROBES: u32 = 2;

/// A batch that takes this long besides its round trip is believed: many times what a busy machine's scheduler adds. Twice as long measures
/// no better and is felt when a cluster starts.
const BATCH_TAKES: Duration = Duration::from_millis(10);

/// What no link exceeds: bytes that pass within one process take no time at all.
const MOST_BYTES_PER_SECOND: f64 = 1e12;

/// Arrivals that may wait: twice the probes of the largest batch, so that those of a measurement that was given up have room too.
const ARRIVALS: usize = 2 * TINY_BATCH as usize;

const _: () =
    assert!(LAST_BATCH_BYTES / PROBE_LIMIT_BYTES <= TINY_BATCH, "tiny probes are the most that are sent together");

/// An open link to a peer, which can be measured.
#[derive(Clone)]
pub(crate) struct PeerPath {
    pub(crate) sender: LinkSender,
    /// The way from GPU to GPU beside the link, if there is one.
    pub(crate) nccl: NcclSlot,
    /// Locked while a measurement runs: two at a time would disturb each other.
    probes: Arc<Mutex<Probes>>,
}

/// Where the link's reader tells what the peer said.
pub(crate) struct Arrivals(mpsc::Sender<(u64, Instant)>);

struct Probes {
    next: u64,
    arrived: mpsc::Receiver<(u64, Instant)>,
}

/// A batch that has arrived.
struct Timed {
    took: Duration,
    /// Processor time that this process took meanwhile.
    busy: Duration,
}

/// A clock of this process's processor time.
pub(crate) type ProcessorTime = fn() -> Duration;

impl fmt::Debug for PeerPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PeerPath({})", self.sender.peer())
    }
}

impl PeerPath {
    pub(crate) fn new(sender: LinkSender) -> (Self, Arrivals) {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let probes = Arc::new(Mutex::new(Probes { next: 0, arrived }));
        (Self { sender, nccl: NcclSlot::default(), probes }, Arrivals(arrivals))
    }

    /// Measures the link. Whoever calls this sets the deadline.
    pub(crate) async fn measure(&self, processor_time: ProcessorTime) -> Result<LinkMeasurement, LinkError> {
        let mut probes = self.probes.lock().await;
        let (start, mut round_trip) = (Instant::now(), Duration::MAX);
        for _ in 0..TINY_PROBES {
            let tiny = probes.send(&self.sender, 1, TINY_BYTES, processor_time).await?;
            round_trip = round_trip.min(tiny.took);
            if start.elapsed() > TINY_PROBES_WITHIN {
                break;
            }
        }
        let together = probes.send(&self.sender, TINY_BATCH, TINY_BYTES, processor_time).await?;
        let busy_seconds_per_tensor = busy_seconds(&together) / f64::from(TINY_BATCH);
        let mut batch_bytes = FIRST_BATCH_BYTES;
        loop {
            let bytes = (batch_bytes / BATCH_PROBES).min(PROBE_LIMIT_BYTES);
            let timed = probes.send(&self.sender, batch_bytes / bytes, bytes, processor_time).await?;
            if timed.took.saturating_sub(round_trip) >= BATCH_TAKES || batch_bytes >= LAST_BATCH_BYTES {
                let tensors = busy_seconds_per_tensor * f64::from(batch_bytes / bytes);
                let busy_seconds_per_byte = (busy_seconds(&timed) - tensors).max(0.0) / f64::from(batch_bytes);
                return Ok(LinkMeasurement {
                    latency_seconds: round_trip.as_secs_f64() / 2.0,
                    bytes_per_second: throughput(f64::from(batch_bytes), round_trip, &timed),
                    busy_seconds_per_byte,
                    busy_seconds_per_tensor,
                });
            }
            batch_bytes = batch_bytes.saturating_mul(GROWTH).min(LAST_BATCH_BYTES);
        }
    }
}

impl Arrivals {
    pub(crate) fn note(&self, number: u64) {
        // There is room for all that were sent. What has none was not, and nobody waits for it.
        let _ = self.0.try_send((number, Instant::now()));
    }
}

impl Probes {
    /// Sends probes and waits until all have arrived.
    async fn send(
        &mut self,
        link: &LinkSender,
        count: u32,
        bytes: u32,
        processor_time: ProcessorTime,
    ) -> Result<Timed, LinkError> {
        // Each has bytes of its own, as hidden states have: one that is sent again comes out of the cache.
        let payloads: Vec<Bytes> = (0..count).map(|number| vec![number as u8; bytes as usize].into()).collect();
        let numbers = self.next..self.next + u64::from(count);
        self.next = numbers.end;
        let (start, busy_before) = (Instant::now(), processor_time());
        for (number, payload) in numbers.clone().zip(payloads) {
            let name = TensorName::Probe(number);
            let header = TensorHeader {
                job: JobId(0),
                epoch: Epoch(0),
                name,
                shape: vec![bytes],
                dtype: DType::U8,
                delta: None,
                part: None,
            };
            link.send_tensor(TensorFrame { header, payload }).await?;
        }
        let (mut missing, mut last) = (count, start);
        while missing > 0 {
            match self.arrived.recv().await {
                Some((number, at)) if numbers.contains(&number) => (missing, last) = (missing - 1, last.max(at)),
                // Of a measurement that was given up.
                Some(_) => {}
                None => return Err(LinkError::Closed(link.closed().await)),
            }
        }
        Ok(Timed { took: last.duration_since(start), busy: processor_time().saturating_sub(busy_before) })
    }
}

/// The throughput is that of the whole batch without a round trip. Not from the first arrival to the last: streams share a QUIC connection,
/// so that the first arrives when the last does, nearly.
fn throughput(bytes: f64, round_trip: Duration, timed: &Timed) -> f64 {
    let took = timed.took.as_secs_f64();
    // A round trip that was long by chance must not make the batch take no time.
    bytes / (took - round_trip.as_secs_f64()).max(took / 4.0).max(bytes / MOST_BYTES_PER_SECOND)
}

/// Carrying is one thread's work. More processor time than that is a job's that runs meanwhile.
fn busy_seconds(timed: &Timed) -> f64 {
    timed.busy.min(timed.took).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_gives_its_throughput_without_the_round_trip_and_no_more_than_a_thread_of_work() {
        let timed = Timed { took: 12 * MILLISECOND, busy: 100 * MILLISECOND };
        let found = throughput(1e6, 2 * MILLISECOND, &timed);
        assert!((found - 1e8).abs() < 1.0, "{found}");
        assert_eq!(busy_seconds(&timed), 0.012);
    }

    #[test]
    fn no_time_at_all_gives_finite_figures() {
        let timed = Timed { took: Duration::ZERO, busy: Duration::ZERO };
        let found = throughput(1e6, Duration::ZERO, &timed);
        assert!((found - MOST_BYTES_PER_SECOND).abs() < 1.0, "{found}");
        let odd = Timed { took: MILLISECOND, busy: Duration::ZERO };
        assert!(throughput(1e6, 5 * MILLISECOND, &odd) <= 4.1e9);
    }
}
