//! NCCL: what carries hidden states from GPU to GPU within a node, out of device memory and into it.
//!
//! ```text
//!   sender's stream ── Communicator::send ──► NVLink, PCIe ──► Communicator::receive ── receiver's stream
//! ```
//!
//! A communicator is one direction between two GPUs and belongs to the link of that direction, so that it lives as long as the pair of processes. What is sent is
//! announced on the link, in order, when it is handed over; the receiver hands over its part in the order of the announcements. So what one side has handed over
//! depends on nothing that the other side has not handed over or been told of, and no two can wait for each other.
//!
//! Streams, memory and events are the device's: this room knows addresses ([`DeviceSpan`](asyncdiff_common::device_span::DeviceSpan)) and NCCL, which it opens when it is
//! first asked for.

#![allow(unsafe_code)]

mod communicator;
mod failure;
mod library;

pub use communicator::{Communicator, Role, UniqueId};
pub use failure::{NcclError, NcclOperation};
pub use library::{UNIQUE_ID_BYTES, version};
