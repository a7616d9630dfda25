//! Which of the libraries there are. Whatever calls into one asks here first: the bindings panic where a library is missing.

use super::cudnn;
use crate::kernels::cuda::error::{CudaError, CudaLibrary};

/// Every library that computing takes, the driver first: without it the others are of no use.
const NEEDED: [CudaLibrary; 3] = [CudaLibrary::Driver, CudaLibrary::Nvrtc, CudaLibrary::CublasLt];

/// Those that cannot be opened.
pub(super) fn missing() -> Vec<CudaLibrary> {
    NEEDED.into_iter().filter(|&library| !is_present(library)).collect()
}

/// Those that cannot be opened and that are not needed.
pub(super) fn slower_without() -> Vec<CudaLibrary> {
    [CudaLibrary::Cudnn].into_iter().filter(|&library| !is_present(library)).collect()
}

/// Whether the driver records what a stream is given: the bindings panic where it lacks a function.
pub(super) fn can_record() -> bool {
    /// What functions are looked up as; nobody calls them by it.
    type Function = extern "C" fn();
    let has = |name: &[u8]| {
        // SAFETY: callers have asked whether the library is there; the function is looked up and not called.
        unsafe { cudarc::driver::sys::culib().get::<Function>(name) }.is_ok()
    };
    let names: [&[u8]; 4] =
        [b"cuStreamBeginCapture_v2\0", b"cuStreamEndCapture\0", b"cuGraphInstantiateWithFlags\0", b"cuGraphLaunch\0"];
    names.into_iter().all(has)
}

/// Nothing, if the library can be opened.
pub(super) fn check(library: CudaLibrary) -> Result<(), CudaError> {
    if is_present(library) { Ok(()) } else { Err(CudaError::MissingLibrary(library)) }
}

/// Its version, if it is there and says it.
pub(in crate::kernels::cuda) fn version(library: CudaLibrary) -> Option<String> {
    check(library).ok()?;
    let (mut major, mut minor) = (0, 0);
    match library {
        CudaLibrary::CublasLt => {
            // SAFETY: takes nothing and returns a number.
            let code = unsafe { cudarc::cublaslt::sys::cublasLtGetVersion() };
            Some(format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100))
        }
        CudaLibrary::Cudnn => {
            let code = cudnn::version()?;
            Some(format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100))
        }
        CudaLibrary::Driver => {
            let (major, minor) = super::visible::driver_cuda().ok()?;
            Some(format!("{major}.{minor}"))
        }
        CudaLibrary::Nvrtc => {
            // SAFETY: writes two numbers to the places that it is given.
            let asked = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
            (asked == cudarc::nvrtc::sys::nvrtcResult::NVRTC_SUCCESS).then(|| format!("{major}.{minor}"))
        }
    }
}

fn is_present(library: CudaLibrary) -> bool {
    // SAFETY: opens the library, which runs its initialisers. They are NVIDIA's and made to be opened in any process.
    unsafe {
        match library {
            CudaLibrary::CublasLt => cudarc::cublaslt::sys::is_culib_present(),
            CudaLibrary::Cudnn => cudnn::is_present(),
            CudaLibrary::Driver => cudarc::driver::sys::is_culib_present(),
            CudaLibrary::Nvrtc => cudarc::nvrtc::sys::is_culib_present(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_fails_for_exactly_what_is_missing() {
        let missing = missing();
        for library in NEEDED.into_iter().chain(slower_without()) {
            let is_missing = missing.contains(&library) || library == CudaLibrary::Cudnn;
            assert_eq!(check(library).is_err(), is_missing, "{}", library.name());
            assert_eq!(version(library).is_none(), is_missing, "{}", library.name());
        }
    }
}
