//! `worker join --device`: which device, from what was asked for and what there is.

use std::num::NonZeroU32;

use asyncdiff_model::kernels::{CudaError, DeviceChoice, Gpus};

use crate::{DeviceKind, LayerTime};

/// The part of a GPU's free memory that is not offered: products need 32 MiB to work in, and allocations are rounded.
const KEPT_SHARE: u64 = 16;

/// What a worker computes on.
pub(super) struct ChosenDevice {
    pub(super) kind: DeviceKind,
    /// Memory that components may take, where the device says.
    pub(super) memory_bytes: Option<u64>,
    /// For people: such as `2 threads`.
    pub(super) text: String,
}

impl ChosenDevice {
    /// Nothing is computed.
    pub(super) fn paced(flops_per_second: f64, threads: NonZeroU32) -> Self {
        let kind = DeviceKind::Paced(LayerTime::at_rate(flops_per_second));
        Self { kind, memory_bytes: None, text: threads_text(threads) }
    }

    /// What was asked for, or the best that there is.
    pub(super) fn find(asked: Option<DeviceChoice>, threads: NonZeroU32) -> Result<Self, CudaError> {
        match decide(asked, Gpus::find)? {
            DeviceChoice::Cpu => Ok(Self { kind: DeviceKind::Thread, memory_bytes: None, text: threads_text(threads) }),
            DeviceChoice::Cuda(ordinal) => {
                let gpus = Gpus::find()?;
                let gpu = gpus.usable(ordinal)?;
                let free = gpu.free_bytes()?;
                let text = format!("{}, {}", DeviceChoice::Cuda(ordinal), gpu.name);
                Ok(Self { kind: DeviceKind::Cuda(ordinal), memory_bytes: Some(free - free / KEPT_SHARE), text })
            }
        }
    }
}

/// The device by its name. What was asked for is there or an error; otherwise the first GPU if it can be used.
fn decide(
    asked: Option<DeviceChoice>,
    find: impl FnOnce() -> Result<Gpus, CudaError>,
) -> Result<DeviceChoice, CudaError> {
    match asked {
        Some(DeviceChoice::Cpu) => Ok(DeviceChoice::Cpu),
        Some(DeviceChoice::Cuda(ordinal)) => find()?.usable(ordinal).map(|gpu| DeviceChoice::Cuda(gpu.ordinal)),
        None => match find() {
            Ok(gpus) if gpus.visible.is_empty() => Ok(DeviceChoice::Cpu),
            Ok(gpus) => Ok(match gpus.usable(0) {
                Ok(gpu) => DeviceChoice::Cuda(gpu.ordinal),
                Err(error) => {
                    tracing::warn!(%error, "there is a GPU that cannot be used; computing on the CPU");
                    DeviceChoice::Cpu
                }
            }),
            Err(CudaError::NotBuilt | CudaError::MissingLibrary(_)) => Ok(DeviceChoice::Cpu),
            Err(error) => {
                tracing::warn!(%error, "the GPU's driver does not answer; computing on the CPU");
                Ok(DeviceChoice::Cpu)
            }
        },
    }
}

fn threads_text(threads: NonZeroU32) -> String {
    match threads.get() {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    }
}

#[cfg(test)]
mod tests {
    use asyncdiff_model::kernels::{CudaLibrary, Gpu};

    use super::*;

    fn gpus(count: usize, missing: Vec<CudaLibrary>) -> Result<Gpus, CudaError> {
        let gpu = |ordinal| Gpu { ordinal, name: "a GPU".to_owned(), capability: (8, 6), total_bytes: 24 << 30 };
        Ok(Gpus { visible: (0..count).map(gpu).collect(), driver_cuda: (13, 0), missing })
    }

    #[test]
    fn without_a_wish_the_first_gpu_computes_if_it_can() {
        assert_eq!(decide(None, || gpus(2, Vec::new())), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(decide(None, || gpus(0, Vec::new())), Ok(DeviceChoice::Cpu));
        assert_eq!(decide(None, || gpus(1, vec![CudaLibrary::Nvrtc])), Ok(DeviceChoice::Cpu));
        let broken = CudaError::Call { what: "start its driver".to_owned(), reason: "CUDA_ERROR".to_owned() };
        for error in [CudaError::NotBuilt, CudaError::MissingLibrary(CudaLibrary::Driver), broken] {
            assert_eq!(decide(None, || Err(error)), Ok(DeviceChoice::Cpu));
        }
    }

    #[test]
    fn what_is_asked_for_is_there_or_an_error() {
        let (first, third) = (Some(DeviceChoice::Cuda(0)), Some(DeviceChoice::Cuda(2)));
        assert_eq!(decide(Some(DeviceChoice::Cpu), || panic!("nobody asked for GPUs")), Ok(DeviceChoice::Cpu));
        assert_eq!(decide(third, || gpus(3, Vec::new())), Ok(DeviceChoice::Cuda(2)));
        let unknown = CudaError::NoSuchGpu { ordinal: 2, visible: 1 };
        assert_eq!(decide(third, || gpus(1, Vec::new())), Err(unknown));
        let missing = || gpus(1, vec![CudaLibrary::CublasLt]);
        assert_eq!(decide(first, missing), Err(CudaError::MissingLibrary(CudaLibrary::CublasLt)));
        assert_eq!(decide(first, || Err(CudaError::NotBuilt)), Err(CudaError::NotBuilt));
    }
}
