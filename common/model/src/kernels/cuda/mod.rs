//! Kernels on a GPU of NVIDIA's: a graph is lowered to launches and products, as data, and an executor carries them out.
//!
//! ```text
//!   Graph ──Layout──► where parameters lie ──pack (weights)──► bytes, resident on the device
//!     │                    │
//!     └───── lower ◄───────┘
//!              ▼
//!   Lowered: launches and products over named memory ──► executor (a GPU), or emulator (tests)
//! ```
//!
//! Lowering is pure: what would be launched is known, and tested, without a GPU. The emulator compiles the very sources that a GPU is
//! given as C++ and runs the same list, so each kernel is compared with the reference on any machine.

// What only the executor uses is unused until there is one.
#![cfg_attr(not(test), allow(dead_code))]

#[cfg(test)]
#[allow(unsafe_code)]
mod emulator;
mod launch;
mod lower;
mod pack;
#[cfg(test)]
mod parity;
mod source;
