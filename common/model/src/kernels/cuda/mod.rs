//! Kernels on a GPU of NVIDIA's: a graph is lowered to launches and products, as data, and an executor carries them out.
//!
//! ```text
//!   Graph ──Layout──► where parameters lie ──pack (weights)──► bytes, resident on the device
//!     │                    │
//!     └───── lower ◄───────┘
//!              ▼
//!   Lowered: launches, products, convolutions over named memory ──► executor (a GPU), or emulator (tests)
//! ```
//!
//! The executor ([`executor`]) computes on one GPU in one stream: everything that it hands over happens in that order, so memory is
//! used again without waiting, and only who reads a value waits for it. Copies and transfers have streams of their own beside it. It is built with the feature `cuda`; CUDA's libraries are opened at run
//! time, so that building takes none of them.
//!
//! Lowering is pure: what would be launched is known, and tested, without a GPU. The emulator compiles the very sources that a GPU is
//! given as C++ and runs the same list, so each kernel is compared with the reference on any machine.

#[cfg(not(feature = "cuda"))]
mod absent;
#[cfg(test)]
#[allow(unsafe_code)]
mod emulator;
mod error;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod executor;
#[cfg(any(test, feature = "cuda"))]
mod fused;
mod gpu;
#[cfg(any(test, feature = "cuda"))]
mod launch;
#[cfg(any(test, feature = "cuda"))]
mod lower;
#[cfg(any(test, feature = "cuda"))]
mod pack;
#[cfg(test)]
mod parity;
#[cfg(any(test, feature = "cuda"))]
mod source;

#[cfg(not(feature = "cuda"))]
pub use absent::{Mark, SideStream};
pub use error::{CudaError, CudaLibrary};
#[cfg(feature = "cuda")]
pub(super) use executor::{Cuda, Elements, GpuAssembly, HostBytes, Steps, memory_of};
#[cfg(feature = "cuda")]
pub use executor::{Mark, SideStream};
pub use gpu::{Gpu, Gpus};
