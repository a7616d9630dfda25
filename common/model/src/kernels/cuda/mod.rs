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
//!
//! What a step of SD 2.1 takes at least at 768², batch 2, in 16 bits, counted from its graphs with every operand read once and every result written
//! once, at the rates of an H100's data sheet (989 TFLOP/s, 3.35 TB/s): by it was decided what is worth a kernel.
//!
//! | | TFLOP | GB | ms of arithmetic | ms of memory | so |
//! |---|---|---|---|---|---|
//! | convolutions of 3×3 | 1.80 | 1.88 | 1.82 | 0.56 | no windows in memory; what follows is in the same kernel |
//! | linear | 0.77 | 3.24 | 0.78 | 0.97 | bias and residual are in the same kernel: another 3 GB if not |
//! | GEGLU | 0.46 | 1.65 | 0.47 | 0.49 | gates first: sums of both halves would be another 0.7 GB |
//! | attention | 1.26 | 0.62 | 1.27 | 0.19 | by units for tiles: others have a twentieth of their rate |
//! | group norms | | 1.22 | | 0.36 | |
//! | layer norms | | 0.62 | | 0.19 | |

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
