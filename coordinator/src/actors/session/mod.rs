//! One worker's session: its control connection, its heartbeat, what it was asked and has not answered.
//!
//! ```text
//!   control receiver task ──► WorkerSession actor ──► answers, Membership, Denoiser (loss, failures)
//!   tensor receiver task  ──► Denoiser (noise predictions) · WorkerSession (replies)
//!   server of parameters  ◄── WorkerSession (WantWeights) ──► AskPeer, for what other workers have
//! ```

mod actor;
mod admission;
mod handle;
mod known_links;
mod measurements;
mod record;
mod requests;
mod state;
mod tensors;
mod turnaround;
mod weights;

pub(crate) use actor::{Ending, SessionArguments, SessionMessage, WorkerSession};
pub(crate) use admission::SessionAdmission;
pub(crate) use handle::{JobDoor, WorkerHandle};
pub(crate) use known_links::KnownLink;
pub use record::{TensorCounts, WorkerPart, WorkerRecord, WorkerState};
pub(crate) use requests::{TensorPromise, TensorSpec};
