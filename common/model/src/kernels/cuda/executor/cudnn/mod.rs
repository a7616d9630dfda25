//! Convolutions and attention by cuDNN, where it is there: in the format's elements, channels last, with what follows a convolution in the same
//! kernel. Each shape has a plan that is made once: some tenths of a second for those whose kernel the library compiles.

mod descriptor;
#[cfg(test)]
mod deviceless;
mod library;
mod operations;
mod plan;

use std::collections::HashMap;
use std::ffi::c_void;

use cudarc::driver::CudaStream;

use descriptor::{Descriptors, Kind, Name, Value};
use library::{Failure, Functions, Handle};
use operations::{BIAS, FACTOR, KEYS, QUERIES, RESIDUAL, ROW_BIAS, SCALE, SOURCE, TARGET, VALUES, WEIGHTS};
use plan::{Machine, Operation, Plan};

use crate::kernels::Format;
use crate::kernels::cuda::error::CudaError;
use crate::kernels::cuda::fused::{Attention, AttentionShape, Convolution, ConvolutionShape};
use crate::kernels::cuda::launch::Place;

/// cuDNN for one GPU, on its stream.
#[derive(Debug)]
pub(super) struct Cudnn {
    functions: &'static Functions,
    handle: Handle,
    /// `None` where there is none, which is told once.
    plans: HashMap<Operation, Option<Plan>>,
    workspace_bytes: usize,
}

// SAFETY: the library's handle and descriptors may be used by one thread after the other, and everything here is behind the device's lock.
unsafe impl Send for Cudnn {}

/// Whether the library is there and new enough.
pub(super) fn is_present() -> bool {
    Functions::find().is_some()
}

/// As it counts its versions: 91302 for 9.13.2.
pub(super) fn version() -> Option<usize> {
    Functions::find().map(|functions| functions.version)
}

impl Cudnn {
    /// `None` without the library, and, said in the log, with one that does not start: one that lacks a part, or does not know the driver. The
    /// calling thread has the GPU's context; a plan may use so much memory while it runs.
    pub(super) fn new(workspace_bytes: usize) -> Option<Self> {
        let functions = Functions::find()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes a handle to where it is told.
        match functions.check(unsafe { (functions.create_handle)(&raw mut handle) }) {
            Ok(()) => Some(Self { functions, handle, plans: HashMap::new(), workspace_bytes }),
            Err(failure) => {
                tracing::warn!(
                    reason = failure.text(),
                    "cuDNN does not start: kernels of our own compute in its place"
                );
                None
            }
        }
    }

    /// What is handed over from now on goes to this stream, which lives for as long.
    pub(super) fn set_stream(&self, stream: &CudaStream) -> Result<(), CudaError> {
        // SAFETY: the handle lives, and so does the stream: the device that holds this holds both of its streams.
        let set = unsafe { (self.functions.set_stream)(self.handle, stream.cu_stream().cast()) };
        self.functions.check(set).map_err(|failure| failure.to("change the stream".to_owned()))
    }

    /// Whether there is a plan for attention of this shape, made when it is first asked for.
    pub(super) fn has_attention(&mut self, shape: &AttentionShape) -> bool {
        shape.format != Format::F32 && self.plan(Operation::Attention(*shape)).is_some()
    }

    /// Whether there is a plan for convolutions of this shape, made when it is first asked for. In f32 the library's fast ones would round their
    /// operands to TF32.
    pub(super) fn has_convolution(&mut self, shape: &ConvolutionShape) -> bool {
        shape.format != Format::F32 && self.plan(Operation::Convolution(*shape)).is_some()
    }

    pub(super) fn attend(
        &mut self,
        attention: &Attention,
        workspace: u64,
        address: impl Fn(Place) -> u64,
    ) -> Result<(), CudaError> {
        let Attention { shape, operands: [queries, keys, values], target } = *attention;
        let mut operands: Vec<(i64, u64)> = [(QUERIES, queries), (KEYS, keys), (VALUES, values), (TARGET, target)]
            .map(|(number, place)| (number, address(place)))
            .to_vec();
        let scale = 1.0 / (shape.width as f32).sqrt();
        // The library reads it before the call returns.
        operands.push((SCALE, (&raw const scale) as u64));
        self.run(Operation::Attention(shape), &operands, workspace)
    }

    pub(super) fn convolve(
        &mut self,
        convolution: &Convolution,
        workspace: u64,
        address: impl Fn(Place) -> u64,
    ) -> Result<(), CudaError> {
        let Convolution { shape, source, weights, bias, row_bias, factor, residual, target } = *convolution;
        let optional = [(BIAS, bias), (ROW_BIAS, row_bias), (FACTOR, factor), (RESIDUAL, residual)];
        let optional = optional.into_iter().filter_map(|(number, place)| Some((number, place?)));
        let needed = [(SOURCE, source), (WEIGHTS, weights), (TARGET, target)];
        let operands: Vec<(i64, u64)> =
            needed.into_iter().chain(optional).map(|(number, place)| (number, address(place))).collect();
        self.run(Operation::Convolution(shape), &operands, workspace)
    }

    fn plan(&mut self, operation: Operation) -> Option<&Plan> {
        let Self { functions, handle, workspace_bytes, plans } = self;
        let make = || {
            let chosen = Plan::choose(functions, Machine::Here(*handle), &operation, *workspace_bytes);
            let plan = chosen.unwrap_or_else(|failure| {
                tracing::debug!(reason = failure.text(), "cuDNN does not take an operation");
                None
            });
            if plan.is_none() {
                tracing::info!(?operation, "cuDNN has no plan for this: kernels of our own compute it");
            }
            plan
        };
        plans.entry(operation).or_insert_with(make).as_ref()
    }

    /// Hands an operation over.
    fn run(&mut self, operation: Operation, operands: &[(i64, u64)], workspace: u64) -> Result<(), CudaError> {
        let (functions, handle) = (self.functions, self.handle);
        let failed = |failure: &Failure| failure.to(format!("hand over {operation:?}"));
        let plan = self.plan(operation).expect("lowering makes a step of what there is a plan for");
        let (numbers, addresses): (Vec<i64>, Vec<*mut c_void>) =
            operands.iter().map(|&(number, address)| (number, address as *mut c_void)).unzip();
        let mut descriptors = Descriptors::new(functions);
        let workspace = [workspace as *mut c_void];
        let attributes = [
            (Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, Value::Integers(&numbers)),
            (Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, Value::Pointers(&addresses)),
            (Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, Value::Pointers(&workspace)),
        ];
        let pack = descriptors.make(Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &attributes);
        let pack = pack.map_err(|failure| failed(&failure))?;
        // SAFETY: the plan was made for these operands, which callers hold, with at most so much workspace, which one operation after the other
        // uses in the stream's order.
        let executed = unsafe { (functions.execute)(handle, plan.descriptor.0, pack.0) };
        functions.check(executed).map_err(|failure| failed(&failure))
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.plans.clear();
        // SAFETY: it was made by `new` and is not used afterwards. Should it fail there is nothing to be done.
        let _ = unsafe { (self.functions.destroy_handle)(self.handle) };
    }
}
