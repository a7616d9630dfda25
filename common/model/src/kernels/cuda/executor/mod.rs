//! Carries out on a GPU what a graph was lowered to.
//!
//! ```text
//!   Kernels::value ──fill──► Staging (pinned) ──copies──────► Elements ──┐ ◄── transfers ──► SideStream: another GPU's
//!   Prepared::run ──► Steps: Lowered, for these rows ──► Cuda: one stream, in order ──► Elements (outputs)
//!                                                          │ Memory: registers, scratch, buffers of values
//!                                                          │ Products: cuBLASLt, an algorithm for each shape
//!                                                          │ Cudnn: a plan for each shape of convolution and attention
//!                                                          └ Functions: the sources, compiled by NVRTC for each format
//! ```
//!
//! Nothing here decides what is computed. A [`Lowered`](super::launch::Lowered) is a list, and a run of it allocates nothing after the first one
//! of its size.

mod assembly;
mod attempt;
mod crossing;
mod cudnn;
mod device;
mod elements;
mod graph_memory;
mod libraries;
mod mark;
mod memory;
#[cfg(test)]
mod parity;
mod products;
mod replay;
mod side_stream;
mod staging;
mod steps;
mod visible;

pub(in crate::kernels) use assembly::GpuAssembly;
pub(in crate::kernels) use device::Cuda;
pub(in crate::kernels) use elements::Elements;
pub(in crate::kernels) use graph_memory::memory_of;
pub(super) use libraries::version;
pub use mark::Mark;
pub use side_stream::SideStream;
pub(in crate::kernels) use staging::HostBytes;
pub(in crate::kernels) use steps::Steps;
pub(super) use visible::{find, free_bytes};
