//! What travels between coordinator and workers: control messages and tensor headers.

mod tensor;

pub use tensor::{DType, MAX_AXES, TENSOR_LIMIT_BYTES, TensorHeader, TensorName};
