//! A value on a GPU that comes in parts from elsewhere.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;

use super::device::Cuda;
use super::elements::Elements;
use super::memory::Buffer;
use crate::ModelError;
use crate::kernels::Format;
use crate::kernels::cuda::pack::element_bytes;

/// Elements of which some are on their way: each part is copied while the next one comes.
#[derive(Debug)]
pub(in crate::kernels) struct GpuAssembly {
    cuda: Arc<Cuda>,
    buffer: Arc<Buffer>,
    format: Format,
    len: usize,
    written: Option<Arc<CudaEvent>>,
}

impl GpuAssembly {
    pub(in crate::kernels) fn new(cuda: &Arc<Cuda>, format: Format, len: usize) -> Result<Self, ModelError> {
        cuda.bind()?;
        let buffer = cuda.state().memory.take_value(len * element_bytes(format))?;
        Ok(Self { cuda: Arc::clone(cuda), buffer, format, len, written: None })
    }

    /// Begins to copy a part, which may be dropped when this returns.
    pub(in crate::kernels) fn put(&mut self, elements: &Range<usize>, bytes: &[u8]) -> Result<(), ModelError> {
        let element = element_bytes(self.format);
        let range = elements.start * element..elements.end * element;
        // The copies are in one order: the last one's event is everybody's.
        self.written = Some(self.cuda.write((&self.buffer, range), |target| target.copy_from_slice(bytes))?);
        Ok(())
    }

    pub(in crate::kernels) fn finish(self) -> Elements {
        let elements = Elements::new(self.cuda, self.buffer, (self.format, self.len));
        match self.written {
            Some(written) => elements.written_by(written),
            None => elements,
        }
    }
}
