//! What a link has carried, counted at its ends so that every carrier counts alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one end of a link has sent and received since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Control frames accepted for sending.
    pub control_frames_sent: u64,
    /// Their bytes, each with its four bytes of length.
    pub control_bytes_sent: u64,
    /// Control frames handed to the receiver.
    pub control_frames_received: u64,
    /// Their bytes, each with its four bytes of length.
    pub control_bytes_received: u64,
    /// Tensors accepted for sending.
    pub tensors_sent: u64,
    /// Bytes of their headers, each with its four bytes of length.
    pub tensor_header_bytes_sent: u64,
    /// Bytes of their payloads.
    pub tensor_payload_bytes_sent: u64,
    /// Tensors handed to the receiver.
    pub tensors_received: u64,
    /// Bytes of their headers, each with its four bytes of length.
    pub tensor_header_bytes_received: u64,
    /// Bytes of their payloads.
    pub tensor_payload_bytes_received: u64,
    /// Tensors dropped because they were of an old epoch or an ended job.
    pub late_tensors: u64,
    /// Frames of either kind that arrived after their receiver had been dropped.
    pub discarded_frames: u64,
}

/// The live counters behind [`LinkCounters`]. Relaxed: each is read alone, none guards anything.
#[derive(Default)]
pub(crate) struct Counters {
    control_sent: Tally,
    control_received: Tally,
    headers_sent: Tally,
    headers_received: Tally,
    payloads_sent: Tally,
    payloads_received: Tally,
    late_tensors: Arc<AtomicU64>,
    discarded_frames: AtomicU64,
}

#[derive(Default)]
struct Tally {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    /// Counters of a link around another: what is late is dropped by the inner one and counts for both.
    pub(crate) fn around(inner: &Self) -> Self {
        Self { late_tensors: Arc::clone(&inner.late_tensors), ..Self::default() }
    }

    pub(crate) fn sent_control(&self, bytes: usize) {
        self.control_sent.add(bytes);
    }

    pub(crate) fn received_control(&self, bytes: usize) {
        self.control_received.add(bytes);
    }

    pub(crate) fn sent_tensor(&self, header_bytes: usize, payload_bytes: usize) {
        self.headers_sent.add(header_bytes);
        self.payloads_sent.add(payload_bytes);
    }

    pub(crate) fn received_tensor(&self, header_bytes: usize, payload_bytes: usize) {
        self.headers_received.add(header_bytes);
        self.payloads_received.add(payload_bytes);
    }

    pub(crate) fn dropped_late_tensor(&self) {
        self.late_tensors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn discarded_frame(&self) {
        self.discarded_frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> LinkCounters {
        LinkCounters {
            control_frames_sent: self.control_sent.frames.load(Ordering::Relaxed),
            control_bytes_sent: self.control_sent.bytes.load(Ordering::Relaxed),
            control_frames_received: self.control_received.frames.load(Ordering::Relaxed),
            control_bytes_received: self.control_received.bytes.load(Ordering::Relaxed),
            tensors_sent: self.headers_sent.frames.load(Ordering::Relaxed),
            tensor_header_bytes_sent: self.headers_sent.bytes.load(Ordering::Relaxed),
            tensor_payload_bytes_sent: self.payloads_sent.bytes.load(Ordering::Relaxed),
            tensors_received: self.headers_received.frames.load(Ordering::Relaxed),
            tensor_header_bytes_received: self.headers_received.bytes.load(Ordering::Relaxed),
            tensor_payload_bytes_received: self.payloads_received.bytes.load(Ordering::Relaxed),
            late_tensors: self.late_tensors.load(Ordering::Relaxed),
            discarded_frames: self.discarded_frames.load(Ordering::Relaxed),
        }
    }
}

impl Tally {
    fn add(&self, bytes: usize) {
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
