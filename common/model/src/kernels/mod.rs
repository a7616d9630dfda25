//! The one room where the kernel that computes an operation is chosen: graphs and weights in, prepared graphs out.
//!
//! Programs, components and models build graphs and run what was prepared from them; they never see which kernel runs.
//! [`Kernels::reference`] is candle's own operations on any device; [`Kernels::for_device`] takes faster ones where there are
//! any. Every faster kernel is tested against the reference. All kernels give the same bits for any number of threads.

mod choice;
mod cpu;
mod cuda;
mod floats;
mod format;
mod memory;
#[cfg(test)]
mod parity;
mod parts;
mod prepared;
mod reference;
mod registers;
mod value;

use std::sync::Arc;

use bytes::Bytes;
use candle_core::{Device, Tensor};

pub use choice::{DeviceChoice, DeviceSet};
pub use cpu::{CAP_VARIABLE, Isa, Peak};
pub use cuda::{CudaError, CudaLibrary, Gpu, Gpus, Mark, SideStream};
pub use floats::{Lent, LentMemory};
pub use format::Format;
pub use memory::GraphMemory;
pub use parts::{Assembly, Part};
pub use prepared::{Computed, Prepared};
pub use value::Value;

use cpu::{CpuFormat, to_channels_last};

use crate::ModelError;
use crate::checkpoint::Weights;
use crate::graph::{Extent, Graph};

/// Prepares graphs for one device, and keeps the memory that they are computed in.
#[derive(Clone, Debug)]
pub struct Kernels {
    backend: Backend,
}

/// Who computes. A new kind of device is a new variant here.
#[derive(Clone, Debug)]
enum Backend {
    /// Candle's own operations.
    Candle(Device),
    /// Our kernels on the CPU, with weights in a format.
    Cpu(Arc<cpu::Cpu>, CpuFormat),
    /// Our kernels on a GPU, with weights and activations in a format.
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Cuda>, Format),
    /// Nobody: values have their sizes and no meaning.
    Stub(Arc<cpu::Cpu>),
}

impl Kernels {
    /// The best kernels that there are for the device.
    #[must_use]
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::cpu(Isa::best()) } else { Self::reference(device) }
    }

    /// The best kernels for a device of this machine.
    pub fn for_choice(choice: DeviceChoice) -> Result<Self, CudaError> {
        match choice {
            DeviceChoice::Cpu => Ok(Self::for_device(&Device::Cpu)),
            DeviceChoice::Cuda(ordinal) => Self::cuda(ordinal),
        }
    }

    /// Our kernels on the CPU, for an instruction set that it has, in f32.
    #[must_use]
    pub fn cpu(isa: Isa) -> Self {
        Self { backend: Backend::Cpu(Arc::new(cpu::Cpu::new(isa)), CpuFormat::F32) }
    }

    /// Our kernels on a GPU, in f32.
    pub fn cuda(ordinal: usize) -> Result<Self, CudaError> {
        #[cfg(feature = "cuda")]
        return Ok(Self { backend: Backend::Cuda(Arc::new(cuda::Cuda::open(ordinal)?), Format::F32) });
        #[cfg(not(feature = "cuda"))]
        Gpus::find()?.usable(ordinal).and(Err(CudaError::NotBuilt))
    }

    /// Kernels that load no weights and compute nothing: what they write has the right size, in the process' memory, and no meaning. For
    /// benchmarks of everything around the computing.
    #[must_use]
    pub fn stub() -> Self {
        Self { backend: Backend::Stub(Arc::new(cpu::Cpu::new(Isa::Portable))) }
    }

    /// Whether preparing a graph reads its weights.
    #[must_use]
    pub fn needs_weights(&self) -> bool {
        !matches!(self.backend, Backend::Stub(_))
    }

    /// The same device and memory, with weights in another format. Candle's operations are f32 whatever is asked for, and a CPU's where f16 is.
    #[must_use]
    pub fn with_format(&self, format: Format) -> Self {
        match &self.backend {
            Backend::Candle(_) | Backend::Stub(_) => self.clone(),
            Backend::Cpu(cpu, _) => Self { backend: Backend::Cpu(Arc::clone(cpu), format.into()) },
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Self { backend: Backend::Cuda(Arc::clone(cuda), format) },
        }
    }

    /// The format that the device is fastest with.
    #[must_use]
    pub fn fastest_format(&self) -> Format {
        match &self.backend {
            Backend::Candle(_) | Backend::Stub(_) => Format::F32,
            Backend::Cpu(cpu, _) => cpu.isa().fastest_format(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => cuda.fastest_format(),
        }
    }

    /// The instruction set that our own kernels use; `None` where they do not compute.
    #[must_use]
    pub fn isa(&self) -> Option<Isa> {
        match &self.backend {
            Backend::Candle(_) | Backend::Stub(_) => None,
            Backend::Cpu(cpu, _) => Some(cpu.isa()),
            #[cfg(feature = "cuda")]
            Backend::Cuda(..) => None,
        }
    }

    /// The GPU that is computed on; `None` where none is.
    #[must_use]
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Some(cuda.gpu()),
            Backend::Candle(_) | Backend::Cpu(..) | Backend::Stub(_) => None,
        }
    }

    /// A stream beside the one that computes; `None` for a device that computes when it is told to.
    pub fn side_stream(&self) -> Result<Option<SideStream>, ModelError> {
        match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Ok(Some(SideStream::beside(cuda)?)),
            Backend::Candle(_) | Backend::Cpu(..) | Backend::Stub(_) => Ok(None),
        }
    }

    /// A mark behind all that the device was given; `None` for a device that computes when it is told to.
    pub fn mark(&self) -> Result<Option<Mark>, ModelError> {
        match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Ok(Some(Mark::on(cuda)?)),
            Backend::Candle(_) | Backend::Cpu(..) | Backend::Stub(_) => Ok(None),
        }
    }

    /// Candle's own operations: what every other kernel is tested against.
    #[must_use]
    pub fn reference(device: &Device) -> Self {
        Self { backend: Backend::Candle(device.clone()) }
    }

    /// The device that tensors are on which candle computes for these kernels' users, such as latents before they are decoded.
    #[must_use]
    pub fn device(&self) -> &Device {
        match &self.backend {
            Backend::Candle(device) => device,
            Backend::Cpu(..) | Backend::Stub(_) => &Device::Cpu,
            #[cfg(feature = "cuda")]
            Backend::Cuda(..) => &Device::Cpu,
        }
    }

    /// Chooses a kernel for each operation and loads its weights, in the form that the kernel wants.
    pub fn prepare(&self, graph: Graph, weights: &dyn Weights) -> Result<Prepared, ModelError> {
        Prepared::new(&self.backend, graph, weights)
    }

    /// A value for prepared graphs of these kernels.
    ///
    /// # Shapes
    /// - `elements`: row-major, of `shape`: `[rows, channels, height, width]`, `[rows, tokens, width]`, `[rows, width]` or `[rows]`
    pub fn value(&self, shape: &[usize], elements: &[f32]) -> Result<Value, ModelError> {
        // Only images have their channels first; everything else is the same in both orders.
        let fill = |floats: &mut [f32], extent: Extent| match shape.len() {
            4 => to_channels_last(shape[0], extent.channels, extent.pixels(), elements, floats),
            _ => floats.copy_from_slice(elements),
        };
        match &self.backend {
            Backend::Candle(device) => Value::on_candle(&Tensor::from_slice(elements, shape, device)?),
            Backend::Cpu(cpu, _) | Backend::Stub(cpu) => Value::on_host(shape, elements.len(), cpu, fill),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Value::on_gpu(shape, elements.len(), cuda, |floats, extent| {
                fill(floats, extent);
                Ok(())
            }),
        }
    }

    /// A value as it travelled between workers: what [`Value::to_bytes`] made. On a CPU the bytes are used where they are, and let go
    /// of with the value.
    ///
    /// # Shapes
    /// - `shape`: as in [`Kernels::value`]
    /// - `bytes`: little-endian, channels last
    pub fn value_from_bytes(&self, shape: &[usize], bytes: &Bytes) -> Result<Value, ModelError> {
        if let (Backend::Cpu(..) | Backend::Stub(_), Some(value)) = (&self.backend, Value::received(shape, bytes)?) {
            return Ok(value);
        }
        let (chunks, _rest) = bytes.as_chunks::<4>();
        self.fill(shape, chunks.len(), |floats| {
            for (float, &chunk) in floats.iter_mut().zip(chunks) {
                *float = f32::from_le_bytes(chunk);
            }
            Ok(())
        })
    }

    /// A value whose elements are written by `fill`.
    ///
    /// # Shapes
    /// - `shape`: as in [`Kernels::value`]
    /// - `fill`: is given `[rows, height, width, channels]`, with whatever is in there
    pub fn value_filled<E: From<ModelError>>(
        &self,
        shape: &[usize],
        fill: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<Value, E> {
        self.fill(shape, shape.iter().product(), fill)
    }

    fn fill<E: From<ModelError>>(
        &self,
        shape: &[usize],
        count: usize,
        fill: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<Value, E> {
        match &self.backend {
            Backend::Candle(device) => {
                let mut elements = vec![0.0; count];
                fill(&mut elements)?;
                Ok(Value::channels_last_on_candle(shape, elements, device)?)
            }
            Backend::Cpu(cpu, _) | Backend::Stub(cpu) => {
                let mut filled = Ok(());
                let value = Value::on_host(shape, count, cpu, |floats, _extent| filled = fill(floats))?;
                filled.map(|()| value)
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Value::on_gpu(shape, count, cuda, |floats, _extent| fill(floats)),
        }
    }

    /// A value from a tensor.
    ///
    /// # Shapes
    /// - `tensor`: as in [`Kernels::value`]
    pub fn value_of(&self, tensor: &Tensor) -> Result<Value, ModelError> {
        self.value(tensor.dims(), &tensor.flatten_all()?.to_vec1::<f32>()?)
    }

    /// Waits until the device has computed what it was given; on a CPU it has.
    pub fn synchronize(&self) -> Result<(), ModelError> {
        #[cfg(feature = "cuda")]
        if let Backend::Cuda(cuda, _) = &self.backend {
            return Ok(cuda.synchronize()?);
        }
        Ok(self.device().synchronize()?)
    }

    /// The most bytes of a GPU's memory that were held at a time, so far; `None` where no GPU computes.
    #[must_use]
    pub fn most_gpu_bytes(&self) -> Option<u64> {
        match &self.backend {
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => Some(cuda.most_bytes()),
            Backend::Candle(_) | Backend::Cpu(..) | Backend::Stub(_) => None,
        }
    }

    /// Gives back memory that no value uses, such as after a job.
    pub fn trim(&self) {
        match &self.backend {
            Backend::Candle(_) => {}
            Backend::Cpu(cpu, _) | Backend::Stub(cpu) => cpu.trim(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda, _) => cuda.trim(),
        }
    }
}
