//! `worker join --device`: which devices, from what was asked for and what there is.

use std::num::NonZeroU32;

use asyncdiff_model::kernels::{CudaError, DeviceChoice, DeviceSet, Gpus};

use crate::{DeviceKind, LayerTime};

/// The part of a GPU's free memory that is not offered, and the least that is not: for a context, the libraries' kernels and what those work in,
/// some hundred MiB each, and for what allocations are rounded up to.
const KEPT_SHARE: u64 = 16;
const KEPT_MIN_BYTES: u64 = 1 << 30;

/// What a worker computes on.
pub(super) struct ChosenDevice {
    pub(super) kind: DeviceKind,
    /// Memory that components may take, where the device says.
    pub(super) memory_bytes: Option<u64>,
    /// The GPU for people, such as `cuda:1, NVIDIA H100`.
    gpu: Option<String>,
}

impl ChosenDevice {
    /// What was asked for, all of it; without a wish every GPU that can be used, else the CPU.
    pub(super) fn find(asked: Option<DeviceSet>) -> Result<Vec<Self>, CudaError> {
        let chosen = decide(asked, Gpus::find)?.into_iter().map(Self::open);
        if asked.is_some() {
            return chosen.collect();
        }
        let or_warn = |opened: Result<Self, CudaError>| {
            opened.inspect_err(|error| tracing::warn!(%error, "a GPU cannot be used and is left out")).ok()
        };
        let found: Vec<Self> = chosen.filter_map(or_warn).collect();
        Ok(if found.is_empty() { vec![Self::cpu()] } else { found })
    }

    /// So many that compute nothing.
    pub(super) fn paced(flops_per_second: f64, count: NonZeroU32) -> Vec<Self> {
        let kind = || DeviceKind::Paced(LayerTime::at_rate(flops_per_second));
        (0..count.get()).map(|_| Self { kind: kind(), ..Self::cpu() }).collect()
    }

    /// For people.
    pub(super) fn text(&self, threads: NonZeroU32) -> String {
        self.gpu.clone().unwrap_or_else(|| threads_text(threads))
    }

    fn cpu() -> Self {
        Self { kind: DeviceKind::Thread, memory_bytes: None, gpu: None }
    }

    fn open(choice: DeviceChoice) -> Result<Self, CudaError> {
        let DeviceChoice::Cuda(ordinal) = choice else { return Ok(Self::cpu()) };
        let gpus = Gpus::find()?;
        let gpu = gpus.usable(ordinal)?;
        let free = gpu.free_bytes()?;
        let text = format!("{choice}, {}", gpu.name);
        Ok(Self { kind: DeviceKind::Cuda(ordinal), memory_bytes: Some(offered(free)), gpu: Some(text) })
    }
}

/// The devices by their names. What was asked for is there or an error; otherwise all GPUs if they can be used.
fn decide(
    asked: Option<DeviceSet>,
    find: impl FnOnce() -> Result<Gpus, CudaError>,
) -> Result<Vec<DeviceChoice>, CudaError> {
    match asked {
        Some(DeviceSet::Cpu) => Ok(vec![DeviceChoice::Cpu]),
        Some(set) => find()?.of(set),
        None => match find() {
            Ok(gpus) if gpus.visible.is_empty() => Ok(vec![DeviceChoice::Cpu]),
            Ok(gpus) => Ok(gpus.of(DeviceSet::AllGpus).unwrap_or_else(|error| {
                tracing::warn!(%error, "there is a GPU that cannot be used; computing on the CPU");
                vec![DeviceChoice::Cpu]
            })),
            Err(CudaError::NotBuilt | CudaError::MissingLibrary(_)) => Ok(vec![DeviceChoice::Cpu]),
            Err(error) => {
                tracing::warn!(%error, "the GPU's driver does not answer; computing on the CPU");
                Ok(vec![DeviceChoice::Cpu])
            }
        },
    }
}

/// Never nothing, so that a worker of a full GPU says what is lacking when it is given its first part.
fn offered(free_bytes: u64) -> u64 {
    free_bytes.saturating_sub(KEPT_MIN_BYTES.max(free_bytes / KEPT_SHARE)).max(1)
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
        Ok(Gpus { visible: (0..count).map(gpu).collect(), driver_cuda: (13, 0), missing, slower_without: Vec::new() })
    }

    #[test]
    fn a_part_of_a_gpu_is_kept_for_libraries() {
        assert_eq!(offered(80 << 30), 75 << 30);
        assert_eq!(offered(8 << 30), 7 << 30);
        assert_eq!(offered(100), 1);
    }

    fn cuda(ordinals: impl IntoIterator<Item = usize>) -> Vec<DeviceChoice> {
        ordinals.into_iter().map(DeviceChoice::Cuda).collect()
    }

    #[test]
    fn without_a_wish_all_gpus_compute_if_they_can() {
        let cpu = Ok(vec![DeviceChoice::Cpu]);
        assert_eq!(decide(None, || gpus(2, Vec::new())), Ok(cuda([0, 1])));
        assert_eq!(decide(None, || gpus(0, Vec::new())), cpu);
        assert_eq!(decide(None, || gpus(1, vec![CudaLibrary::Nvrtc])), cpu);
        let broken = CudaError::Call { what: "start its driver".to_owned(), reason: "CUDA_ERROR".to_owned() };
        for error in [CudaError::NotBuilt, CudaError::MissingLibrary(CudaLibrary::Driver), broken] {
            assert_eq!(decide(None, || Err(error)), cpu);
        }
    }

    #[test]
    fn what_is_asked_for_is_there_or_an_error() {
        let (all, third) = (Some(DeviceSet::AllGpus), Some(DeviceSet::Gpu(2)));
        assert_eq!(decide(Some(DeviceSet::Cpu), || panic!("nobody asked for GPUs")), Ok(vec![DeviceChoice::Cpu]));
        assert_eq!(decide(third, || gpus(3, Vec::new())), Ok(cuda([2])));
        assert_eq!(decide(all, || gpus(3, Vec::new())), Ok(cuda([0, 1, 2])));
        let unknown = |ordinal, visible| Err(CudaError::NoSuchGpu { ordinal, visible });
        assert_eq!(decide(third, || gpus(1, Vec::new())), unknown(2, 1));
        assert_eq!(decide(all, || gpus(0, Vec::new())), unknown(0, 0));
        let missing = || gpus(1, vec![CudaLibrary::CublasLt]);
        assert_eq!(decide(all, missing), Err(CudaError::MissingLibrary(CudaLibrary::CublasLt)));
        assert_eq!(decide(all, || Err(CudaError::NotBuilt)), Err(CudaError::NotBuilt));
    }
}
