//! A stream for transfers between GPUs, which overlap what is computed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use asyncdiff_common::device_span::DeviceSpan;

use super::attempt::Attempt;
use super::crossing::Crossing;
use super::device::Cuda;
use super::elements::Elements;
use super::memory::Buffer;
use crate::ModelError;
use crate::kernels::cuda::pack::element_bytes;
use crate::kernels::{Format, Value};

/// A stream beside the one that computes. Transfers on it happen in the order in which they are handed over; whoever reads what is received waits for it
/// on the GPU, and the host for nothing.
pub struct SideStream {
    cuda: Arc<Cuda>,
    crossing: Mutex<Crossing>,
}

impl SideStream {
    pub(in crate::kernels) fn beside(cuda: &Arc<Cuda>) -> Result<Self, ModelError> {
        let crossing = Mutex::new(Crossing::beside(cuda.stream())?);
        Ok(Self { cuda: Arc::clone(cuda), crossing })
    }

    /// Makes the GPU the calling thread's, has `hand_over` hand something over that may write so many bytes, and waits until it is done.
    pub fn with_scratch<T, E: From<ModelError>>(
        &self,
        bytes: usize,
        hand_over: impl FnOnce(&DeviceSpan) -> Result<T, E>,
    ) -> Result<T, E> {
        let (scratch, stream) = self.begin(bytes)?;
        // Not locked meanwhile: this may wait for a peer.
        // SAFETY: the buffer is held until the stream has come past this, and has so many bytes.
        let span = unsafe { DeviceSpan::new(scratch.address(), bytes, stream.cu_stream().cast()) };
        let handed_over = hand_over(&span)?;
        let waited = stream.synchronize().failed_to("finish a transfer");
        waited.map_err(ModelError::from)?;
        Ok(handed_over)
    }

    /// Has `hand_over` hand over the sending of a value that is computed, as it is. Returns its bytes.
    ///
    /// # Shapes
    /// - `hand_over`: is given `[rows, height, width, channels]` in the value's [`gpu_format`](Value::gpu_format)
    pub fn send<E: From<ModelError>>(
        &self,
        value: &Value,
        hand_over: impl FnOnce(&DeviceSpan) -> Result<(), E>,
    ) -> Result<usize, E> {
        let elements = value.on_its_gpu()?;
        let mut crossing = self.crossing();
        self.cuda.bind().map_err(ModelError::from)?;
        crossing.begin(self.cuda.stream()).map_err(ModelError::from)?;
        let (bytes, stream) = (elements.bytes(), crossing.stream().cu_stream().cast());
        // SAFETY: the elements are of a buffer that is held until the event that is recorded behind the transfer.
        hand_over(&unsafe { DeviceSpan::new(elements.address(), bytes, stream) })?;
        crossing.end(elements.buffer()).map_err(ModelError::from)?;
        Ok(bytes)
    }

    /// A value that `hand_over` hands over the receiving of: it may be computed with at once.
    ///
    /// # Shapes
    /// - `shape`: as in [`Kernels::value`](crate::kernels::Kernels::value)
    /// - `hand_over`: is given room for `[rows, height, width, channels]`
    pub fn receive<E: From<ModelError>>(
        &self,
        shape: &[usize],
        format: Format,
        hand_over: impl FnOnce(&DeviceSpan) -> Result<(), E>,
    ) -> Result<Value, E> {
        let len: usize = shape.iter().product();
        let bytes = len * element_bytes(format);
        let mut crossing = self.crossing();
        self.cuda.bind().map_err(ModelError::from)?;
        let buffer = self.cuda.state().memory.take_value(bytes)?;
        crossing.begin(self.cuda.stream()).map_err(ModelError::from)?;
        let stream = crossing.stream().cu_stream().cast();
        // SAFETY: nobody else is given the buffer before the event that is recorded behind the transfer, and it has so many bytes.
        hand_over(&unsafe { DeviceSpan::new(buffer.address(), bytes, stream) })?;
        let written = crossing.end(&buffer).map_err(ModelError::from)?;
        let elements = Elements::new(Arc::clone(&self.cuda), buffer, (format, len)).written_by(written);
        Ok(Value::of_elements(shape, len, elements)?)
    }

    /// Since when the oldest transfer is not done that was handed over; `None` where all are.
    #[must_use]
    pub fn waits_since(&self) -> Option<Instant> {
        self.crossing().waits_since()
    }

    fn begin(&self, bytes: usize) -> Result<(Arc<Buffer>, Arc<cudarc::driver::CudaStream>), ModelError> {
        let mut crossing = self.crossing();
        self.cuda.bind()?;
        let scratch = self.cuda.state().memory.take_value(bytes)?;
        crossing.begin(self.cuda.stream())?;
        Ok((scratch, Arc::clone(crossing.stream())))
    }

    fn crossing(&self) -> MutexGuard<'_, Crossing> {
        // A panic leaves what was handed over handed over.
        self.crossing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SideStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SideStream({})", self.cuda.gpu().ordinal)
    }
}
