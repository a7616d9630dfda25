//! Another stream beside the one that computes: work of it that reads or writes buffers, and when they may be used again.
//!
//! ```text
//!   computing ──── event ────────────────────────── written ──► who reads the buffer waits for it, on the GPU
//!                    └─► other stream: copy or transfer ──┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{CudaEvent, CudaStream};

use super::attempt::Attempt;
use super::memory::Buffer;
use crate::kernels::cuda::error::CudaError;

/// The stream, and the buffers that it still works on.
#[derive(Debug)]
pub(super) struct Crossing {
    stream: Arc<CudaStream>,
    held: VecDeque<Held>,
}

/// A buffer that nobody else is given before an event has come.
#[derive(Debug)]
struct Held {
    until: Arc<CudaEvent>,
    since: Instant,
    _buffer: Arc<Buffer>,
}

impl Crossing {
    /// In the same context as the stream that computes.
    pub(super) fn beside(computing: &CudaStream) -> Result<Self, CudaError> {
        let stream = computing.context().new_stream().failed_to("make a stream")?;
        Ok(Self { stream, held: VecDeque::new() })
    }

    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// What is handed to the stream from now on comes after all that the other one was given: memory that it still reads is not written, and what it writes
    /// is not read, too early.
    pub(super) fn begin(&mut self, computing: &CudaStream) -> Result<(), CudaError> {
        self.forget_what_is_done();
        let given = computing.record_event(None).failed_to("record an event")?;
        self.stream.wait(&given).failed_to("keep two streams in order")
    }

    /// What was handed to the stream uses this buffer. The event comes when it is done.
    pub(super) fn end(&mut self, buffer: &Arc<Buffer>) -> Result<Arc<CudaEvent>, CudaError> {
        let until = Arc::new(self.stream.record_event(None).failed_to("record an event")?);
        self.held.push_back(Held { until: Arc::clone(&until), since: Instant::now(), _buffer: Arc::clone(buffer) });
        Ok(until)
    }

    /// Since when the oldest work is not done that was handed over; `None` where all is.
    pub(super) fn waits_since(&mut self) -> Option<Instant> {
        self.forget_what_is_done();
        self.held.front().map(|held| held.since)
    }

    fn forget_what_is_done(&mut self) {
        // Should it fail nothing is found to be done, and calls that follow say why.
        let _ = self.stream.context().bind_to_thread();
        while self.held.front().is_some_and(|held| held.until.is_complete()) {
            self.held.pop_front();
        }
    }
}

impl Drop for Crossing {
    /// The buffers are used until then.
    fn drop(&mut self) {
        // Should it fail the context is lost, and with it all of its memory.
        let _ = self.stream.synchronize();
    }
}
