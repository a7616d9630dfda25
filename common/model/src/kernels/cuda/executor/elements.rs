//! The elements of a value on a GPU.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::CudaEvent;

use super::attempt::Attempt;
use super::device::Cuda;
use super::memory::Buffer;
use super::staging::{HostBytes, HostElements};
use crate::ModelError;
use crate::kernels::Format;
use crate::kernels::cuda::launch::{Argument, Kernel, Launch, Memory, Place};
use crate::kernels::cuda::pack::element_bytes;

/// Threads of a block of the kernels that convert, one for each element.
const CONVERT_BLOCK: u32 = 256;

/// Elements that one launch converts: kernels count them in 31 bits.
const CONVERT_MAX: usize = 1 << 30;

/// Elements in a buffer that values share. Taking some of them and cloning copy nothing.
#[derive(Clone, Debug)]
pub(in crate::kernels) struct Elements {
    cuda: Arc<Cuda>,
    buffer: Arc<Buffer>,
    format: Format,
    range: Range<usize>,
    /// Comes when another stream than the one that computes has written them; `None` where that one does.
    written: Option<Arc<CudaEvent>>,
    /// They are on their way to the host, or there.
    reading: Option<HostElements>,
}

impl Elements {
    /// The first of a buffer's.
    pub(super) fn new(cuda: Arc<Cuda>, buffer: Arc<Buffer>, (format, len): (Format, usize)) -> Self {
        assert!(len * element_bytes(format) <= buffer.bytes(), "{len} elements in {} bytes", buffer.bytes());
        Self { cuda, buffer, format, range: 0..len, written: None, reading: None }
    }

    /// The same, of which another stream writes the elements; they are there when the event comes.
    pub(super) fn written_by(self, written: Arc<CudaEvent>) -> Self {
        Self { written: Some(written), ..self }
    }

    /// New ones in f32, written by `fill`.
    pub(in crate::kernels) fn filled<E: From<ModelError>>(
        cuda: &Arc<Cuda>,
        len: usize,
        fill: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (buffer, written) = cuda.upload(len, fill)?;
        Ok(Self::new(Arc::clone(cuda), buffer, (Format::F32, len)).written_by(written))
    }

    /// Some of them.
    pub(in crate::kernels) fn slice(&self, range: Range<usize>) -> Self {
        let range = self.range.start + range.start..self.range.start + range.end;
        assert!(range.end <= self.range.end, "{range:?} of {:?}", self.range);
        let reading = self.reading.clone().filter(|_| range == self.range);
        Self { range, reading, ..self.clone() }
    }

    /// Sees to it that what is computed from now on finds them written.
    pub(in crate::kernels) fn settle(&self) -> Result<(), ModelError> {
        let Some(written) = &self.written else { return Ok(()) };
        Ok(self.cuda.stream().wait(written).failed_to("keep two streams in order")?)
    }

    pub(in crate::kernels) fn format(&self) -> Format {
        self.format
    }

    pub(super) fn buffer(&self) -> &Arc<Buffer> {
        &self.buffer
    }

    pub(in crate::kernels) fn len(&self) -> usize {
        self.range.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.range.len() * element_bytes(self.format)
    }

    /// Where they begin, for kernels.
    pub(super) fn address(&self) -> u64 {
        self.buffer.address() + (self.range.start * element_bytes(self.format)) as u64
    }

    /// One behind the other. Those of a value that came in pieces may be of two formats: some from here in a short one, some from elsewhere in f32.
    pub(in crate::kernels) fn concatenate(pieces: &[Self]) -> Result<Self, ModelError> {
        let Some(first) = pieces.first() else { return Err(candle_core::Error::msg("no pieces to join").into()) };
        let is_same = pieces.iter().all(|piece| piece.format == first.format);
        let format = if is_same { first.format } else { Format::F32 };
        let len = pieces.iter().map(|piece| piece.range.len()).sum();
        let target = first.cuda.state().memory.take_value(len * element_bytes(format))?;
        let mut address = target.address();
        for piece in pieces {
            let piece = piece.to_format(format)?;
            let bytes = piece.range.len() * element_bytes(format);
            first.cuda.copy(address, piece.address(), bytes)?;
            address += bytes as u64;
        }
        Ok(Self::new(Arc::clone(&first.cuda), target, (format, len)))
    }

    /// The same in another format, computed on the GPU.
    pub(super) fn to_format(&self, format: Format) -> Result<Self, ModelError> {
        if self.format == format {
            return Ok(self.clone());
        }
        let shorter = match (self.format, format) {
            (Format::F32, shorter) | (shorter, Format::F32) => shorter,
            // One of 16 bits to the other.
            _ => return self.to_format(Format::F32)?.to_format(format),
        };
        let len = self.range.len();
        let target = self.cuda.state().memory.take_value(len * element_bytes(format))?;
        // The kernels of a shorter format convert between it and f32.
        let functions = self.cuda.functions(shorter)?;
        let address = |place: Place| match place.memory {
            Memory::Output(_) => target.address() + place.offset as u64,
            _ => self.address() + place.offset as u64,
        };
        for launch in conversion((self.format, format), len) {
            self.cuda.launch(self.cuda.stream(), &functions, &launch, address)?;
        }
        Ok(Self::new(Arc::clone(&self.cuda), target, (format, len)))
    }

    /// The same, on their way to the host.
    pub(in crate::kernels) fn start_reading(&self) -> Result<Self, ModelError> {
        let floats = self.to_format(Format::F32)?;
        let reading = HostElements(self.cuda.read((&floats.buffer, floats.byte_range()))?);
        Ok(Self { reading: Some(reading), ..self.clone() })
    }

    /// As f32 on the host, when they have been computed.
    pub(in crate::kernels) fn read(&self) -> Result<HostElements, ModelError> {
        match &self.reading {
            Some(HostElements(reading)) => Ok(HostElements(reading.clone().wait()?)),
            None => self.start_reading()?.read(),
        }
    }

    /// Begins to read some of them as they are on the GPU.
    pub(in crate::kernels) fn start_reading_bytes(&self) -> Result<HostBytes, ModelError> {
        Ok(self.cuda.read((&self.buffer, self.byte_range()))?)
    }

    fn byte_range(&self) -> Range<usize> {
        self.range.start * element_bytes(self.format)..self.range.end * element_bytes(self.format)
    }
}

/// From the first input to the first output, in another format.
fn conversion((from, to): (Format, Format), len: usize) -> Vec<Launch> {
    let kernel = if to == Format::F32 { Kernel::ToFloats } else { Kernel::FromFloats };
    let launch = |begin: usize| {
        let count = CONVERT_MAX.min(len - begin) as u32;
        let place = |memory, format| Argument::Place(Place { memory, offset: begin * element_bytes(format) });
        let (source, target) = (place(Memory::Input(0), from), place(Memory::Output(0), to));
        Launch {
            kernel,
            grid: [count.div_ceil(CONVERT_BLOCK), 1, 1],
            block: CONVERT_BLOCK,
            shared_bytes: 0,
            arguments: vec![source, target, Argument::Int(count as i32)],
        }
    };
    (0..len).step_by(CONVERT_MAX).map(launch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversion_covers_every_element_once() {
        assert_eq!(conversion((Format::F32, Format::Bf16), 0), []);
        let [launch] = &conversion((Format::F32, Format::Bf16), 1000)[..] else { panic!("several launches") };
        assert_eq!((launch.kernel, launch.grid), (Kernel::FromFloats, [4, 1, 1]));
        assert_eq!(launch.arguments[2], Argument::Int(1000));
        let [first, second] = &conversion((Format::Bf16, Format::F32), CONVERT_MAX + 7)[..] else { panic!("not two") };
        assert_eq!((first.kernel, &first.arguments[2]), (Kernel::ToFloats, &Argument::Int(CONVERT_MAX as i32)));
        let place = |memory, offset| Argument::Place(Place { memory, offset });
        assert_eq!(second.arguments[..2], [place(Memory::Input(0), 2 << 30), place(Memory::Output(0), 4 << 30)]);
        assert_eq!(second.arguments[2], Argument::Int(7));
    }
}
