//! Asking the driver for its GPUs.

use std::ffi::c_int;

use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute, CUresult};
use cudarc::driver::{CudaContext, DriverError, result};

use super::attempt::Attempt;
use super::libraries;
use crate::kernels::cuda::error::{CudaError, CudaLibrary};
use crate::kernels::cuda::gpu::{Gpu, Gpus};

pub(in crate::kernels::cuda) fn find() -> Result<Gpus, CudaError> {
    libraries::check(CudaLibrary::Driver)?;
    let count = match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        started => {
            started.failed_to("start its driver")?;
            result::device::get_count().failed_to("be counted")?
        }
    };
    let visible = (0..count).map(describe).collect::<Result<_, _>>()?;
    let (missing, slower_without) = (libraries::missing(), libraries::slower_without());
    Ok(Gpus { visible, driver_cuda: driver_cuda()?, missing, slower_without })
}

pub(in crate::kernels::cuda) fn free_bytes(ordinal: usize) -> Result<u64, CudaError> {
    libraries::check(CudaLibrary::Driver)?;
    let context = CudaContext::new(ordinal).failed_to("make a context")?;
    let (free, _total) = context.mem_get_info().failed_to("say how much of its memory is free")?;
    Ok(free as u64)
}

fn describe(ordinal: c_int) -> Result<Gpu, CudaError> {
    let device = result::device::get(ordinal).failed_to("be opened")?;
    let name = result::device::get_name(device).failed_to("say its name")?;
    // SAFETY: the driver has just named this device.
    let total = unsafe { result::device::total_mem(device) }.failed_to("say how much memory it has")?;
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // Neither the ordinal nor a capability is ever negative.
    Ok(Gpu { ordinal: ordinal as usize, name, capability: (major, minor), total_bytes: total as u64 })
}

fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32, CudaError> {
    // SAFETY: the driver has named this device.
    let value = unsafe { result::device::get_attribute(device, attribute) };
    Ok(value.failed_to("say what it can do")? as u32)
}

/// The driver writes 13010 for CUDA 13.1.
pub(super) fn driver_cuda() -> Result<(u32, u32), CudaError> {
    let mut version: c_int = 0;
    // SAFETY: writes one number to the place that it is given.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().failed_to("say its driver's version")?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}
