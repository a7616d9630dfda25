//! Matrix products by cuBLASLt, each shape with the algorithm that its heuristic gives, asked for once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasComputeType_t as ComputeType, cublasLtMatmulAlgo_t as Algorithm,
    cublasLtMatmulDescAttributes_t as OperationAttribute, cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtReductionScheme_t as ReductionScheme, cudaDataType_t as DataType,
};
use cudarc::driver::{CudaStream, DevicePtr};

use super::attempt::Attempt;
use crate::kernels::Format;
use crate::kernels::cuda::error::CudaError;

/// What an algorithm may use while it runs: NVIDIA's recommendation for its largest GPUs, where less excludes the fastest.
pub(super) const WORKSPACE_BYTES: usize = 32 << 20;

/// The largest alignment that algorithms are chosen by.
const ALIGNMENT_MAX: u32 = 256;

/// Shapes that are remembered: several times those of the largest networks. Beyond them all are asked for again.
const PLANS_MAX: usize = 4096;

/// `CUBLAS_OP_T` of cuBLAS's headers, which these bindings leave out.
static TRANSPOSED: i32 = 1;

/// Products of one GPU, on its stream.
#[derive(Debug)]
pub(super) struct Products {
    handle: sys::cublasLtHandle_t,
    stream: Arc<CudaStream>,
    workspace: cudarc::driver::CudaSlice<u8>,
    plans: HashMap<Shape, Plan>,
}

// SAFETY: the library's handle may be used by one thread after the other, and everything here is behind the device's lock.
unsafe impl Send for Products {}

/// What the choice of an algorithm depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    /// `m`, `n`, `k`: `target[m, n] = left[m, k] * right[n, k]^T`.
    sizes: [usize; 3],
    format: Format,
    /// Of the addresses of left, right and target.
    alignments: [u32; 3],
}

/// A product as the library knows it.
#[derive(Debug)]
struct Plan {
    operation: Operation,
    left: Matrix,
    right: Matrix,
    target: Matrix,
    algorithm: Algorithm,
}

impl Products {
    pub(super) fn new(stream: Arc<CudaStream>) -> Result<Self, CudaError> {
        // SAFETY: what an algorithm reads of it, it has written before.
        let workspace = unsafe { stream.alloc::<u8>(WORKSPACE_BYTES) }.failed_to("allocate memory for products")?;
        let handle = result::create_handle().failed_to("start cuBLASLt")?;
        Ok(Self { handle, stream, workspace, plans: HashMap::new() })
    }

    /// Where [`WORKSPACE_BYTES`] begin that one operation after the other may use, in the stream's order.
    pub(super) fn workspace(&self) -> u64 {
        self.workspace.device_ptr(&self.stream).0
    }

    /// `target[m, n] = left[m, k] * right[n, k]^T`, row-major, handed over to a stream.
    pub(super) fn multiply(
        &mut self,
        stream: &CudaStream,
        sizes: [usize; 3],
        format: Format,
        [left, right, target]: [u64; 3],
    ) -> Result<(), CudaError> {
        let shape = Shape { sizes, format, alignments: [left, right, target].map(alignment) };
        let failed = || {
            let [m, n, k] = sizes;
            format!("multiply [{m}, {k}] by [{n}, {k}] transposed in {}", format.name())
        };
        if !self.plans.contains_key(&shape) {
            if self.plans.len() >= PLANS_MAX {
                self.plans.clear();
            }
            let plan = Plan::choose(self.handle, shape).failed_to(&failed())?;
            self.plans.insert(shape, plan);
        }
        let plan = &self.plans[&shape];
        let (one, zero) = (1.0_f32, 0.0_f32);
        let workspace = self.workspace();
        // The library's matrices have their columns in memory one after the other. Seen so, the target is `[n, m]`, and the product of `right`,
        // transposed, and `left`.
        // SAFETY: the plan was made for these sizes and alignments. Callers hold the three buffers; the workspace is used by one product after
        // the other, in the stream's order.
        let multiplied = unsafe {
            result::matmul(
                self.handle,
                plan.operation.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                right as *const c_void,
                plan.right.0,
                left as *const c_void,
                plan.left.0,
                target as *const c_void,
                plan.target.0,
                target as *mut c_void,
                plan.target.0,
                &raw const plan.algorithm,
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cu_stream().cast(),
            )
        };
        multiplied.failed_to(&failed())
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: it was made by `new` and is not used afterwards. Should it fail there is nothing to be done.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

impl Plan {
    fn choose(handle: sys::cublasLtHandle_t, shape: Shape) -> Result<Self, CublasError> {
        let [m, n, k] = shape.sizes;
        let operation = Operation::new()?;
        let left = Matrix::new(shape.format, k, m)?;
        let right = Matrix::new(shape.format, k, n)?;
        let target = Matrix::new(shape.format, n, m)?;
        let preference = Preference::new(shape.alignments)?;
        // SAFETY: all of these were made above and live until the call returns.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, operation.0, right.0, left.0, target.0, target.0, preference.0)?
        };
        Ok(Self { operation, left, right, target, algorithm: found.algo })
    }
}

/// Which product: the first operand transposed, sums in f32.
#[derive(Debug)]
struct Operation(sys::cublasLtMatmulDesc_t);

impl Operation {
    fn new() -> Result<Self, CublasError> {
        let compute = ComputeType::CUBLAS_COMPUTE_32F;
        let this = Self(result::create_matmul_desc(compute, DataType::CUDA_R_32F)?);
        let attribute = OperationAttribute::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is of this type, and is copied.
        unsafe {
            result::set_matmul_desc_attribute(
                this.0,
                attribute,
                (&raw const TRANSPOSED).cast(),
                size_of_val(&TRANSPOSED),
            )
        }?;
        Ok(this)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: it was made by `new` and is not used afterwards. Should it fail there is nothing to be done.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// A matrix's type and sizes.
#[derive(Debug)]
struct Matrix(sys::cublasLtMatrixLayout_t);

impl Matrix {
    /// Of so many rows that are neighbours in memory, and so many columns behind each other.
    fn new(format: Format, rows: usize, columns: usize) -> Result<Self, CublasError> {
        let data = match format {
            Format::Bf16 => DataType::CUDA_R_16BF,
            Format::F16 => DataType::CUDA_R_16F,
            Format::F32 => DataType::CUDA_R_32F,
        };
        Ok(Self(result::create_matrix_layout(data, rows as u64, columns as u64, rows as i64)?))
    }
}

impl Drop for Matrix {
    fn drop(&mut self) {
        // SAFETY: it was made by `new` and is not used afterwards. Should it fail there is nothing to be done.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What algorithms come into question.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new([left, right, target]: [u32; 3]) -> Result<Self, CublasError> {
        let this = Self(result::create_matmul_pref()?);
        // In f32 and in an order of its own, so that the same product has the same bits every time: sums that are added in place come in any order.
        let reduction = ReductionScheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reduction)?;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE_BYTES)?;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, right)?;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, left)?;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, target)?;
        this.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, target)?;
        Ok(this)
    }

    /// `T`: as the library declares the attribute.
    fn set<T: Copy>(&self, attribute: PreferenceAttribute, value: T) -> Result<(), CublasError> {
        // SAFETY: the library compares the size with the attribute's, and copies the value.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) }
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: it was made by `new` and is not used afterwards. Should it fail there is nothing to be done.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// The largest power of two that divides an address, up to the one that matters.
fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(ALIGNMENT_MAX.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignments_are_powers_of_two_up_to_the_largest() {
        assert_eq!([512, 256, 2, 6, 24, 0].map(alignment), [256, 256, 2, 2, 8, 256]);
    }
}
