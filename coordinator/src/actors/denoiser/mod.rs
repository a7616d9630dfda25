//! One running job, from prompt to picture.
//!
//! ```text
//!   prepare (task)            encode the prompt ► measure ► plan ► assign components ► send conditions
//!   denoise (in the actor)    noise prediction in ► guidance, noise scheduler step ► latents out
//!   prepare_decoder (task)    begins when half of the steps are taken
//!   finish (task)             decode ► encode the picture ► release the job at every worker ► summary
//! ```

mod actor;
mod denoising;
mod finish;
mod prepare;
mod recorder;
mod state;
mod summary;

use asyncdiff_plan::Epoch;

pub(crate) use actor::{ArrivedPrediction, Denoiser, DenoiserArguments, DenoiserMessage};

/// The epoch of every placement: a job is placed once.
pub(crate) const EPOCH: Epoch = Epoch(0);
