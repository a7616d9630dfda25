//! The coordinator's actors: who starts whom, and what is lost with whom.
//!
//! ```text
//!   Coordinator (root)             ends with the process; if a child below fails, so does the whole: it would be a bug
//!   ├── Membership                 owns the accept loop and the table of names
//!   │   └── WorkerSession × n      one per link; its end is its worker's loss and nobody else's
//!   └── Queue                      owns all jobs' records; hands them to the job store's task, which keeps them on disk
//!       └── Denoiser × n           one per running job, each with workers of its own; its failure is its job's
//! ```
//!
//! Messages:
//!
//! ```text
//!   Membership ──► Queue           WorkerJoined, WorkerLeft, WorkersChanged (one is to leave)
//!   WorkerSession ──► Membership   Introduced, Drain; its end comes by supervision
//!   WorkerSession ──► directory    who holds which parameters; shared, and asked where a worker gets them
//!   WorkerSession ──► Denoiser     Prediction (from the task that receives tensors), WorkerLost, WorkerFailed
//!   Queue ──► Denoiser             Cancel, Offered (whom it may use)
//!   Denoiser ──► WorkerSession     requests; tensors go straight to the link
//!   Denoiser ──► Queue             phases, steps, Settled and Short (whom it uses, that it needs more), the end
//! ```
//!
//! A handler never waits. What takes time (requests, planning, hashing, reading files) is done in tasks that the actor
//! owns: they are aborted when it ends, and come back as messages. Messages left in the mailbox of an actor that ended
//! are dropped: replies that others wait for then end their waiting with an error.

mod denoiser;
mod job_reporter;
mod limits;
mod link_samples;
mod links;
mod membership;
mod planning;
mod queue;
mod root;
mod session;
mod weights;

pub use limits::Limits;
pub(crate) use membership::MembershipMessage;
pub(crate) use planning::{Planned, make_plan, measure_all};
pub use queue::SubmitRefused;
pub(crate) use queue::{JobView, Keeping, QueueMessage, RestoredJob, Submission};
pub(crate) use root::{Coordinator, CoordinatorArguments, CoordinatorMessage, Parts};
pub use session::{TensorCounts, WorkerPart, WorkerRecord, WorkerState};
pub(crate) use session::{TensorSpec, WorkerHandle};
pub use weights::WeightCounts;
