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

#[cfg(test)]
pub(crate) use algorithm::{Algorithm, algorithm};
pub(crate) use convolution::{Call, Convolution};
pub(crate) use form::{packed_bytes, scratch_floats};
pub(crate) use spec::ConvolutionSpec;
pub(crate) use spec::CpuFormat;

#[cfg(test)]
mod tests;
