//! When the GPU comes to a place in its work.

use std::time::Duration;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use super::attempt::Attempt;
use super::device::Cuda;
use crate::kernels::cuda::error::CudaError;

/// A place in a device's work: behind all that it was given when it was made.
#[derive(Debug)]
pub struct Mark(CudaEvent);

impl Mark {
    pub(in crate::kernels) fn on(cuda: &Cuda) -> Result<Self, CudaError> {
        let recorded = cuda.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        Ok(Self(recorded.failed_to("record an event")?))
    }

    /// Whether the device has come past it.
    #[must_use]
    pub fn is_past(&self) -> bool {
        self.0.is_complete()
    }

    /// How much later the device came to it than to an earlier one of the same device. Waits for it.
    pub fn since(&self, earlier: &Self) -> Result<Duration, CudaError> {
        let milliseconds = earlier.0.elapsed_ms(&self.0).failed_to("say how long it took")?;
        Ok(Duration::from_secs_f64((f64::from(milliseconds) / 1e3).max(0.0)))
    }
}
