//! Convolutions and matrix products over channels-last activations, with weights packed once.
//!
//! ```text
//! spec --algorithm, layout--> form --weights--> convolution --run--> direct   --tile, multiply--> epilogue
//!                                                                    winograd --tile, multiply--> epilogue
//!                                                                    amx (bf16)              ---> epilogue
//! ```
//! One kernel (`tile.rs`) computes f32 and bf16 on all vectors; `multiply.rs` says how a unit of depth is multiplied.

mod algorithm;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod convolution;
mod direct;
mod epilogue;
mod form;
mod geometry;
pub(crate) mod half;
mod layout;
mod multiply;
mod pack;
mod shared;
mod spec;
mod split;
mod tile;
mod winograd;

pub use algorithm::{Algorithm, algorithm};
pub use convolution::{Call, Convolution};
pub use form::{packed_bytes, scratch_floats};
pub use spec::{ConvolutionSpec, Format};

#[cfg(test)]
mod tests;
