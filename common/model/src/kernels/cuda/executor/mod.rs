//! Carries out on a GPU what a graph was lowered to.
//!
//! ```text
//!   Kernels::value ──fill──► Staging (pinned) ──────────────► Elements ──┐
//!   Prepared::run ──► Steps: Lowered, for these rows ──► Cuda: one stream, in order ──► Elements (outputs)
//!                                                          │ Memory: registers, scratch, buffers of values
//!                                                          │ Products: cuBLASLt, an algorithm for each shape
//!                                                          └ Functions: the sources, compiled by NVRTC for each format
//! ```
//!
//! Nothing here decides what is computed. A [`Lowered`](super::launch::Lowered) is a list, and a run of it allocates nothing after the first one
//! of its size.

mod attempt;
mod device;
mod elements;
mod graph_memory;
mod libraries;
mod memory;
#[cfg(test)]
mod parity;
mod products;
mod staging;
mod steps;
mod visible;

pub(in crate::kernels) use device::Cuda;
pub(in crate::kernels) use elements::Elements;
pub(in crate::kernels) use graph_memory::memory_of;
pub(in crate::kernels) use steps::Steps;
pub(super) use visible::{find, free_bytes};
