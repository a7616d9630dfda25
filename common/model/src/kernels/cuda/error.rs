//! What goes wrong on the way to a GPU and on it.

use thiserror::Error;

/// Why a GPU cannot be used, or what it failed at.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CudaError {
    /// A call into the driver or a library failed. The hardware's or its driver's fault, or a bug of ours.
    #[error(
        "the GPU failed to {what}: {reason}\nhint: see the kernel's log (`dmesg | grep -i nvrm`) and `nvidia-smi`; after some errors only a new process can use the GPU again"
    )]
    Call {
        /// What was attempted, so that it fits after "failed to".
        what: String,
        /// What the library says.
        reason: String,
    },
    /// NVRTC does not compile the kernels. A bug of this crate, or an NVRTC that does not know the GPU.
    #[error(
        "NVRTC does not compile the kernels for {architecture}: {log}\nhint: an NVRTC that is older than the GPU does not know it: install a newer CUDA toolkit, or compute on the CPU; else this is a bug: please report it"
    )]
    Compile {
        /// What it compiles for, such as `compute_90`.
        architecture: String,
        /// What it wrote.
        log: String,
    },
    /// A library that the GPU is used by cannot be opened. The operator's to mend.
    #[error("{} cannot be opened, {}\nhint: {}, or compute on the CPU", .0.name(), .0.purpose(), .0.remedy())]
    MissingLibrary(CudaLibrary),
    /// There is no GPU of that number.
    #[error("there is no GPU {ordinal}: {visible} are visible\nhint: see `nvidia-smi` and CUDA_VISIBLE_DEVICES")]
    NoSuchGpu {
        /// Which was asked for, counted from 0.
        ordinal: usize,
        /// How many there are.
        visible: usize,
    },
    /// The program was built without the feature.
    #[error("this program was built without GPUs\nhint: build it with `--features cuda`, or compute on the CPU")]
    NotBuilt,
}

impl CudaError {
    /// Whether the GPU or its driver is at fault, and not what was asked for or installed.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Compile { .. })
    }
}

/// A library that a GPU is used by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CudaLibrary {
    /// Matrix products.
    CublasLt,
    /// Convolutions and attention. It may be missing: kernels of our own compute them more slowly then.
    Cudnn,
    /// The driver's, which everything goes through.
    Driver,
    /// Compiles the kernels for the GPU that is there.
    Nvrtc,
}

impl CudaLibrary {
    /// The file's name without its version.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CublasLt => "libcublasLt.so",
            Self::Cudnn => "libcudnn.so",
            Self::Driver => "libcuda.so",
            Self::Nvrtc => "libnvrtc.so",
        }
    }

    /// Its version, such as `13.0`; `None` where it cannot be opened, or does not say.
    #[must_use]
    pub fn version(self) -> Option<String> {
        #[cfg(feature = "cuda")]
        return super::executor::version(self);
        #[cfg(not(feature = "cuda"))]
        None
    }

    /// What it is, to follow its name and a comma.
    fn purpose(self) -> &'static str {
        match self {
            Self::CublasLt => "the CUDA toolkit's library of matrix products",
            Self::Cudnn => "NVIDIA's library of convolutions and attention",
            Self::Driver => "the GPU's driver",
            Self::Nvrtc => "the CUDA toolkit's compiler",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Driver => "install NVIDIA's driver, so that `nvidia-smi` lists the GPU",
            Self::Cudnn => {
                "install cuDNN 9 for the CUDA that is there, and name the folder of its libraries in LD_LIBRARY_PATH"
            }
            Self::CublasLt | Self::Nvrtc => {
                "install the CUDA toolkit 12 or 13, no newer than the driver, and name the folder of its libraries in LD_LIBRARY_PATH"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_named_with_what_it_is_and_what_to_do() {
        for library in [CudaLibrary::CublasLt, CudaLibrary::Cudnn, CudaLibrary::Driver, CudaLibrary::Nvrtc] {
            let text = CudaError::MissingLibrary(library).to_string();
            let (what, hint) = text.split_once("\nhint: ").unwrap();
            assert!(what.starts_with(library.name()), "{what}");
            assert!(hint.starts_with("install ") && hint.ends_with("or compute on the CPU"), "{hint}");
        }
    }
}
