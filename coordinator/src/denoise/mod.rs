//! The denoising loop without actors and links: what happens to latents between a noise prediction's arrival and the
//! next departure.
//!
//! ```text
//!   noise prediction ──► DenoiseLoop { engine, guidance, noise scheduler, latents } ──► Effect::SendLatents
//! ```
//!
//! The Denoiser actor feeds it from links; [`in_process`] feeds it from inboxes in the same thread. Both run the same
//! engine on the same plan, so their results are equal bit for bit.

mod denoise_loop;
mod guidance;
pub mod in_process;
mod latents;
mod progress;

pub use denoise_loop::{DenoiseLoop, Denoised, Effect, LoopSettings};
pub use guidance::guide;
pub use latents::{LatentsShape, floats_from_bytes};
pub use progress::{Progress, ProgressError};
