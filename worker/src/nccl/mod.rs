//! Hidden states from GPU to GPU within a node: a communicator beside each link between two workers of one host, for that link's direction.
//!
//! ```text
//!   worker that dialled (sends)                              worker that accepted (receives)
//!     NcclOffered { id } ─────────────────────────────────►
//!            ◄───────────────────────────────────────────────  NcclJoining   (or NcclRefused)
//!     a thread joins, and connects                             a thread joins, and connects
//!            ◄───────────────────────────────────────────────  NcclReady     (or NcclRefused)
//!   device: NcclSent { header } ──────────────────────────►  device: receives into new memory, in this order
//!           Communicator::send ═══════════════════════════►          Communicator::receive
//! ```
//!
//! Until it is ready, and where there is none, hidden states take the link's own way; nobody waits for it. Whether a tensor goes over it is decided when it is sent.
//! What is handed over depends on nothing that was not handed over or announced before, so devices cannot wait for each other; `streams` among the plan crate's tests
//! carries that out for random plans.
//!
//! *When it is given up*, because the link ends, NCCL reports an error or a transfer hangs, what was to be received is left unwritten and the GPU goes on over it. So
//! what this worker sends is given up first, and every job here fails before another word leaves it: see [`NcclPaths::give_up`].

mod path;
mod paths;
mod setup;

pub(crate) use path::NcclPath;
pub(crate) use paths::{NcclPaths, Soundness};
pub(crate) use setup::{NcclAnswer, NcclSlot, answer, offer};
