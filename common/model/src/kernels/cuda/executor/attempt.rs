//! From the codes of CUDA's libraries to errors that say what was attempted.

use cudarc::cublaslt::result::CublasError;
use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use cudarc::nvrtc::CompileError;

use crate::kernels::cuda::error::CudaError;

/// What a call into a library returns.
pub(super) trait Attempt<T> {
    /// The error says that the GPU failed to do this.
    fn failed_to(self, what: &str) -> Result<T, CudaError>;
}

impl<T> Attempt<T> for Result<T, DriverError> {
    fn failed_to(self, what: &str) -> Result<T, CudaError> {
        self.map_err(|error| CudaError::Call { what: what.to_owned(), reason: driver_reason(error) })
    }
}

impl<T> Attempt<T> for Result<T, CublasError> {
    fn failed_to(self, what: &str) -> Result<T, CudaError> {
        self.map_err(|CublasError(status)| CudaError::Call { what: what.to_owned(), reason: format!("{status:?}") })
    }
}

/// Whether memory was asked for that is not there.
pub(super) fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// What NVRTC says of the kernels.
pub(super) fn compile_error(architecture: &str, error: &CompileError) -> CudaError {
    let log = match error {
        CompileError::CompileError { log, .. } => log.to_string_lossy().trim().to_owned(),
        CompileError::CreationError(error)
        | CompileError::DestroyError(error)
        | CompileError::GetLogError(error)
        | CompileError::GetPtxError(error) => format!("{error:?}"),
    };
    CudaError::Compile { architecture: architecture.to_owned(), log }
}

/// Such as `CUDA_ERROR_ILLEGAL_ADDRESS, an illegal memory access was encountered`.
fn driver_reason(error: DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{:?}, {}", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    }
}
