//! f32 kernels on the CPU: matrix products by the `gemm` crate, everything around them in loops of one or two passes.
//!
//! Each is a candle custom operation on contiguous tensors. Work is divided only where dividing it changes no sum, so the
//! bits do not depend on the number of threads.

mod activation;
mod attention;
mod convolution;
mod linear;
mod math;
mod norm;
mod product;
mod storage;

pub(super) use activation::{Activate, Geglu};
pub(super) use attention::Attention;
pub(super) use convolution::Convolution;
pub(super) use linear::Linear;
pub(super) use norm::{GroupNorm, LayerNorm};
