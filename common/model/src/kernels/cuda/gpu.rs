//! The GPUs that this process can see, found without touching them: no context, no memory.

use super::error::{CudaError, CudaLibrary};
use crate::kernels::{DeviceChoice, DeviceSet, Format};

/// From this compute capability on GPUs multiply f16 by units of their own.
const F16_FROM: (u32, u32) = (7, 0);

/// And bf16, which f32's range makes the safer one.
#[cfg_attr(not(feature = "cuda"), allow(unused))]
pub(super) const BF16_FROM: (u32, u32) = (8, 0);

/// What there is of GPUs and of what they are used by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpus {
    /// The visible ones, in the driver's order.
    pub visible: Vec<Gpu>,
    /// The newest CUDA that the driver knows: major and minor.
    pub driver_cuda: (u32, u32),
    /// Libraries that computing takes and that cannot be opened; without any of them all visible GPUs can be used.
    pub missing: Vec<CudaLibrary>,
    /// Libraries that cannot be opened, or are too old, and that computing is slower without.
    pub slower_without: Vec<CudaLibrary>,
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, from 0.
    pub ordinal: usize,
    /// Such as `NVIDIA RTX A5000`.
    pub name: String,
    /// Its compute capability: major and minor.
    pub capability: (u32, u32),
    /// Its memory.
    pub total_bytes: u64,
}

impl Gpus {
    /// Asks the driver. No GPU is not an error; no driver is one.
    pub fn find() -> Result<Self, CudaError> {
        #[cfg(feature = "cuda")]
        return super::executor::find();
        #[cfg(not(feature = "cuda"))]
        Err(CudaError::NotBuilt)
    }

    /// The GPU of that number, if it can be used.
    pub fn usable(&self, ordinal: usize) -> Result<&Gpu, CudaError> {
        let unknown = || CudaError::NoSuchGpu { ordinal, visible: self.visible.len() };
        let gpu = self.visible.get(ordinal).ok_or_else(unknown)?;
        self.missing.first().map_or(Ok(gpu), |&library| Err(CudaError::MissingLibrary(library)))
    }

    /// The devices of a set, if all can be used; at least one.
    pub fn of(&self, set: DeviceSet) -> Result<Vec<DeviceChoice>, CudaError> {
        let ordinals = match set {
            DeviceSet::AllGpus => 0..self.visible.len().max(1),
            DeviceSet::Cpu => return Ok(vec![DeviceChoice::Cpu]),
            DeviceSet::Gpu(ordinal) => ordinal..ordinal + 1,
        };
        ordinals.map(|ordinal| self.usable(ordinal).map(|gpu| DeviceChoice::Cuda(gpu.ordinal))).collect()
    }
}

impl Gpu {
    /// The format that it is fastest with.
    #[must_use]
    pub fn fastest_format(&self) -> Format {
        if self.capability >= BF16_FROM {
            Format::Bf16
        } else if self.capability >= F16_FROM {
            Format::F16
        } else {
            Format::F32
        }
    }

    /// Memory that nobody has taken. Makes a context on the GPU and gives it back: some hundred MiB for some tenths of a second.
    pub fn free_bytes(&self) -> Result<u64, CudaError> {
        #[cfg(feature = "cuda")]
        return super::executor::free_bytes(self.ordinal);
        #[cfg(not(feature = "cuda"))]
        Err(CudaError::NotBuilt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(missing: Vec<CudaLibrary>) -> Gpus {
        let gpu = |ordinal| Gpu { ordinal, name: "a GPU".to_owned(), capability: (8, 6), total_bytes: 24 << 30 };
        Gpus { visible: (0..2).map(gpu).collect(), driver_cuda: (13, 0), missing, slower_without: Vec::new() }
    }

    #[test]
    fn a_gpu_is_usable_if_it_is_there_with_all_libraries() {
        assert_eq!(gpus(Vec::new()).usable(1).unwrap().ordinal, 1);
        assert_eq!(gpus(Vec::new()).usable(2), Err(CudaError::NoSuchGpu { ordinal: 2, visible: 2 }));
        let missing = gpus(vec![CudaLibrary::Nvrtc]);
        assert_eq!(missing.usable(0), Err(CudaError::MissingLibrary(CudaLibrary::Nvrtc)));
    }

    #[test]
    fn all_gpus_are_at_least_one() {
        let none = Gpus { visible: Vec::new(), ..gpus(Vec::new()) };
        assert_eq!(none.of(DeviceSet::AllGpus), Err(CudaError::NoSuchGpu { ordinal: 0, visible: 0 }));
        assert_eq!(none.of(DeviceSet::Cpu), Ok(vec![DeviceChoice::Cpu]));
        let both = vec![DeviceChoice::Cuda(0), DeviceChoice::Cuda(1)];
        assert_eq!(gpus(Vec::new()).of(DeviceSet::AllGpus), Ok(both));
    }

    #[test]
    fn a_gpu_is_fastest_in_what_it_has_units_for() {
        let fastest = |capability| Gpu { capability, ..gpus(Vec::new()).visible[0].clone() }.fastest_format();
        assert_eq!(fastest((6, 1)), Format::F32);
        assert_eq!([(7, 0), (7, 5)].map(fastest), [Format::F16; 2]);
        assert_eq!([(8, 0), (9, 0), (12, 0)].map(fastest), [Format::Bf16; 3]);
    }

    #[test]
    fn looking_for_gpus_finds_them_or_says_what_is_missing() {
        match Gpus::find() {
            Ok(gpus) => assert!(gpus.driver_cuda >= (11, 0), "{gpus:?}"),
            Err(error) => assert_eq!(error == CudaError::NotBuilt, !cfg!(feature = "cuda"), "{error}"),
        }
    }
}
