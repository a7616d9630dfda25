//! One running job, from prompt to picture.
//!
//! ```text
//!   prepare (task)            wait for workers ► encode the prompt ► measure ► plan ► assign components ► send conditions
//!   denoise (in the actor)    noise prediction in ► guidance, noise scheduler step ► latents out
//!     ├─ a fault ──────────►  prepare again, from the step that it has come to, with who is left
//!     ├─ somebody leaves or joined ► load another placement (task), change to it at the end of a step
//!     └─ now and then ─────►  a copy of the progress goes to disk, from where a coordinator that is started again goes on
//!   decoder (task)            begins when half of the steps are taken
//!   finish (task)             decode, elsewhere if need be ► encode the picture ► release the job at every worker ► summary
//! ```
//!
//! Each placement has an epoch of its own: what still comes of an older one is late and dropped, at workers by their
//! intake, here by the session's admission and, if it waited in the mailbox, by [`denoising`].

mod actor;
mod candidates;
mod decoder;
mod denoising;
mod faults;
mod finish;
mod hanging;
mod lives;
mod moving;
mod prepare;
mod recorder;
mod recovery;
mod saving;
mod start;
mod state;
mod summary;

pub(crate) use actor::{ArrivedPrediction, Denoiser, DenoiserArguments, DenoiserMessage, JobLife};
pub(crate) use candidates::{News, Offer};
