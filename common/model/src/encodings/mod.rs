//! How hidden states become fewer bytes: f16, bf16, and quantised differences from the version before.
//!
//! ```text
//!   sender's device                                             receiver's device
//!     value ──► Encoder ── f16, bf16: rounded ──► bytes ──────────► Decoder ──► value
//!                  │                                                   │
//!                  └── differences: value − register, in 8 or 4 bits   └── register + differences, which is the next register
//!                      of a scale for each 64 elements; the register
//!                      becomes what the receiver will have
//! ```
//!
//! The functions on slices ([`encode_half`], [`encode_delta`] and their inverses) are pure, and give the same bits on all instruction sets: they
//! round, multiply and add in an order that is written down, and never fuse. [`Encoder`] and [`Decoder`] keep registers and order for one end of
//! all edges; a rank is no more than a key to them.

mod buffers;
mod decoder;
mod delta;
mod encoder;
mod error;
mod half;
#[cfg(test)]
mod properties;

pub use decoder::Decoder;
pub use delta::{decode_delta, encode_delta};
pub use encoder::{Encoded, Encoder};
pub use error::EncodingError;
pub use half::{Half, decode_half, encode_half};
