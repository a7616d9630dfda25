//! One GPU: its context, its stream, the kernels that were compiled for it, and its memory.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaStream, LaunchConfig, PushKernelArg, result};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use super::attempt::{Attempt, compile_error};
use super::crossing::Crossing;
use super::cudnn::Cudnn;
use super::memory::{Buffer, Memory};
use super::products::{Products, WORKSPACE_BYTES};
use super::replay::Recorder;
use super::staging::{HostBytes, Staging};
use crate::ModelError;
use crate::kernels::Format;
use crate::kernels::cuda::error::CudaError;
use crate::kernels::cuda::fused::{AttentionShape, ConvolutionShape, Offers};
use crate::kernels::cuda::gpu::{BF16_FROM, Gpu, Gpus};
use crate::kernels::cuda::launch::{Argument, Kernel, Launch, Place};
use crate::kernels::cuda::source;

/// `off` for kernels of our own in cuDNN's place: to compare, and to go around a library that does not work.
const CUDNN_VARIABLE: &str = "ASYNCDIFF_CUDNN";

/// A GPU that computes. All kernels go through one stream, in order; only reading a value waits for it. Copies and transfers have streams of their own.
#[derive(Debug)]
pub(in crate::kernels) struct Cuda {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    /// Locked while a graph's work is handed over; a device computes one layer at a time, so nobody waits.
    state: Mutex<State>,
}

/// What changes as the GPU is used.
#[derive(Debug)]
pub(super) struct State {
    pub(super) memory: Memory,
    pub(super) staging: Staging,
    /// What goes to the host and comes from it.
    pub(super) copies: Crossing,
    pub(super) products: Products,
    /// `None` where the library is missing or not wanted.
    pub(super) cudnn: Option<Cudnn>,
    /// `None` where every step is handed over by itself.
    pub(super) recorder: Option<Recorder>,
    /// The kernels of each format that was asked for.
    functions: Vec<(Format, Arc<Functions>)>,
}

/// The kernels for one type of elements.
#[derive(Debug)]
pub(super) struct Functions(Vec<(Kernel, CudaFunction)>);

impl Cuda {
    /// Makes the GPU ready; its kernels are compiled when a format is asked for.
    pub(in crate::kernels) fn open(ordinal: usize) -> Result<Self, CudaError> {
        let gpu = Gpus::find()?.usable(ordinal)?.clone();
        let context = CudaContext::new(ordinal).failed_to("make a context")?;
        // SAFETY: cudarc's events keep streams in order that share its slices. Ours share buffers, and `Crossing` keeps those in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().failed_to("make a stream")?;
        let state = State {
            memory: Memory::new(Arc::clone(&stream)),
            staging: Staging::default(),
            copies: Crossing::beside(&stream)?,
            products: Products::new(Arc::clone(&stream))?,
            cudnn: if is_off(CUDNN_VARIABLE) { None } else { Cudnn::new(WORKSPACE_BYTES) },
            recorder: Recorder::new(&stream)?,
            functions: Vec::new(),
        };
        Ok(Self { gpu, stream, state: Mutex::new(state) })
    }

    /// Which GPU it is.
    pub(in crate::kernels) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The format that it is fastest with.
    pub(in crate::kernels) fn fastest_format(&self) -> Format {
        self.gpu.fastest_format()
    }

    /// Waits until everything is computed that was handed over.
    pub(in crate::kernels) fn synchronize(&self) -> Result<(), CudaError> {
        self.stream.synchronize().failed_to("compute what it was given")
    }

    /// The most of its memory that was held at a time, beside contexts, libraries and what those work in.
    pub(in crate::kernels) fn most_bytes(&self) -> u64 {
        self.state().memory.most_bytes()
    }

    /// Gives back memory that no value uses.
    pub(in crate::kernels) fn trim(&self) {
        let mut state = self.state();
        state.memory.trim();
        state.staging.trim();
    }

    /// The kernels of a format, compiled when they are first asked for: that takes seconds.
    pub(super) fn functions(&self, format: Format) -> Result<Arc<Functions>, CudaError> {
        let mut state = self.state();
        if let Some((_, known)) = state.functions.iter().find(|(known, _)| *known == format) {
            return Ok(Arc::clone(known));
        }
        let compiled = Arc::new(self.compile(format)?);
        state.functions.push((format, Arc::clone(&compiled)));
        Ok(compiled)
    }

    /// Hands a launch over to a stream.
    pub(super) fn launch(
        &self,
        stream: &Arc<CudaStream>,
        functions: &Functions,
        launch: &Launch,
        address: impl Fn(Place) -> u64,
    ) -> Result<(), CudaError> {
        /// An argument as the driver reads it: from where it lies.
        enum Raw {
            Address(u64),
            Float(f32),
            Int(i32),
        }
        let raw: Vec<Raw> = launch
            .arguments
            .iter()
            .map(|argument| match *argument {
                Argument::Float(number) => Raw::Float(number),
                Argument::Int(number) => Raw::Int(number),
                Argument::Null => Raw::Address(0),
                Argument::Place(place) => Raw::Address(address(place)),
            })
            .collect();
        let [x, y, z] = launch.grid;
        let (block_dim, shared_mem_bytes) = ((launch.block, 1, 1), launch.shared_bytes);
        let mut builder = stream.launch_builder(functions.of(launch.kernel));
        for argument in &raw {
            match argument {
                Raw::Address(address) => builder.arg(address),
                Raw::Float(number) => builder.arg(number),
                Raw::Int(number) => builder.arg(number),
            };
        }
        // SAFETY: lowering gives each kernel the arguments that it declares, within the memory that it was told of; the emulator's tests
        // carry out the same launches with guarded memory.
        let launched = unsafe { builder.launch(LaunchConfig { grid_dim: (x, y, z), block_dim, shared_mem_bytes }) };
        launched.map(drop).failed_to(&format!("start the kernel {}", launch.kernel.name()))
    }

    /// Copies bytes from one place to another.
    pub(super) fn copy(&self, target: u64, source: u64, bytes: usize) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: callers hold both buffers and name parts of them that do not overlap.
        unsafe { result::memcpy_dtod_async(target, source, bytes, self.stream.cu_stream()) }.failed_to("copy a value")
    }

    /// Copies bytes of the host, which may be dropped when this returns.
    pub(super) fn load(&self, bytes: &[u8]) -> Result<Buffer, ModelError> {
        let buffer = self.state().memory.allocate(bytes.len())?;
        if bytes.is_empty() {
            return Ok(buffer);
        }
        self.bind()?;
        // SAFETY: the buffer has room for them, and the stream has copied them before they can be dropped.
        unsafe { result::memcpy_htod_async(buffer.address(), bytes, self.stream.cu_stream()) }
            .failed_to("copy parameters from the host")?;
        self.synchronize()?;
        Ok(buffer)
    }

    /// A new value of `len` elements of f32 that `fill` writes. It is there when the event comes.
    pub(super) fn upload<E: From<ModelError>>(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [f32]) -> Result<(), E>,
    ) -> Result<(Arc<Buffer>, Arc<CudaEvent>), E> {
        self.bind().map_err(ModelError::from)?;
        let mut state = self.state();
        let State { memory, staging, copies, .. } = &mut *state;
        let target = memory.take_value(len * size_of::<f32>())?;
        let mut filled = Ok(());
        let fill = |bytes: &mut [u8]| filled = fill(bytemuck::cast_slice_mut(bytes));
        let whole = (&target, 0..len * size_of::<f32>());
        let written = staging.upload((&self.stream, copies), whole, fill).map_err(ModelError::from)?;
        filled.map(|()| (target, written))
    }

    /// Begins to write bytes of a buffer.
    pub(super) fn write(
        &self,
        target: (&Arc<Buffer>, Range<usize>),
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Arc<CudaEvent>, CudaError> {
        self.bind()?;
        let State { staging, copies, .. } = &mut *self.state();
        staging.upload((&self.stream, copies), target, fill)
    }

    /// Begins to read bytes of a buffer.
    pub(super) fn read(&self, source: (&Arc<Buffer>, Range<usize>)) -> Result<HostBytes, CudaError> {
        self.bind()?;
        let State { staging, copies, .. } = &mut *self.state();
        staging.download((&self.stream, copies), source)
    }

    /// The stream that computes.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// After a panic the memory is as good as before: every run writes what it reads.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the context the calling thread's, for calls that do not do so themselves.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.stream.context().bind_to_thread().failed_to("go on with its context")
    }

    fn compile(&self, format: Format) -> Result<Functions, CudaError> {
        let (major, minor) = self.gpu.capability;
        let architecture = format!("compute_{major}{minor}");
        let mut options = vec![format!("--gpu-architecture={architecture}")];
        options.extend(source::options(format).iter().map(|&option| option.to_owned()));
        let options = CompileOptions { options, name: Some("asyncdiff.cu".to_owned()), ..CompileOptions::default() };
        let compiled = compile_ptx_with_opts(source::SOURCE, options);
        let ptx = compiled.map_err(|error| compile_error(&architecture, &error))?;
        let module = self.stream.context().load_module(ptx);
        let module = module.failed_to("load its kernels (is the CUDA toolkit newer than the driver?)")?;
        let load = |kernel: Kernel| {
            let function = module.load_function(kernel.name());
            Ok((kernel, function.failed_to(&format!("find the kernel {}", kernel.name()))?))
        };
        Ok(Functions(Kernel::all(format).map(load).collect::<Result<_, CudaError>>()?))
    }
}

impl Offers for Cuda {
    fn has_attention(&self, shape: &AttentionShape) -> bool {
        self.state().cudnn.as_mut().is_some_and(|cudnn| cudnn.has_attention(shape))
    }

    fn has_convolution(&self, shape: &ConvolutionShape) -> bool {
        self.state().cudnn.as_mut().is_some_and(|cudnn| cudnn.has_convolution(shape))
    }

    fn has_tiles(&self) -> bool {
        self.gpu.capability >= BF16_FROM
    }
}

impl Functions {
    fn of(&self, kernel: Kernel) -> &CudaFunction {
        let found = self.0.iter().find(|(known, _)| *known == kernel);
        &found.expect("every kernel of the format was loaded, and lowering names no other").1
    }
}

/// Whether a variable of the environment says so.
fn is_off(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "off")
}
