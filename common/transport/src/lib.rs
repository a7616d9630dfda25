//! Links between processes: what they carry, who may open them, and what carries them.
//!
//! - [`link`]: one end of a link as every actor sees it, whatever carries it.
//! - [`identity`]: the cluster's authority, enrolment, tokens, the state directory.
//! - [`quic`]: links between processes, and enrolment, over QUIC with mutual TLS 1.3.
//! - [`in_process`]: links within one process.
//! - `shm`: memory that two processes of one host share, for the tensors of their QUIC link.
//! - [`nccl`]: what carries hidden states from GPU to GPU within a node.
//! - [`weights`]: serving parameters to several askers, fairly and bounded.
//! - [`network`]: how actors reach other processes, whatever carries the links; simulated clusters.
//! - [`faulty`]: a network that misbehaves on purpose, for tests.
//! - [`bench`]: what carries tensors how fast on this machine.
//!
//! Control frames are opaque bytes here; tensors are a header and raw bytes. This crate knows neither jobs nor plans:
//! what may come in is decided by an [`Admission`](link::Admission) that the user of a link gives.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod bench;
pub mod faulty;
pub mod identity;
pub mod in_process;
pub mod link;
pub mod nccl;
pub mod network;
mod peer;
pub mod quic;
mod shm;
pub mod weights;

#[cfg(test)]
mod conformance;

pub use shm::Loan;

pub use peer::{NameError, PeerName, Role, WORKER_NAME_LIMIT, WorkerName};
