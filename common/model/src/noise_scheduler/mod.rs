//! Noise schedulers: which timesteps a picture is denoised at, and how a noise prediction moves the latents.
//!
//! Plain Rust on slices with coefficients in f64: latents live on the host, in the coordinator. Configured by
//! diffusers' `scheduler_config.json` and numerically equal to diffusers 0.42; what would change the result and is not
//! built is refused by name.
//!
//! ```text
//! json ─► SchedulerConfig ─► Options ─► alphas ─► sigmas and timesteps ─► Solver ─────────────┐
//!                                                                         SchedulerState ─────┴► NoiseScheduler
//! ```
//!
//! Every solver is a linear combination of few arrays (latents, noise prediction, what is remembered of earlier
//! steps), and all of that memory is in one place, so a job can be taken up again at any step, bit for bit.

mod alphas;
mod choices;
mod config;
mod ddim;
mod dpm_solver;
mod error;
mod euler;
mod formula_model;
mod heun;
mod json;
mod keys;
mod kind;
mod linear;
mod lms;
mod options;
mod pndm;
mod prediction;
mod scheduler;
mod sigmas;
mod state;
mod timesteps;
mod unipc;

pub use config::SchedulerConfig;
pub use error::SchedulerError;
pub use formula_model::{FormulaRun, recorded_evaluations, run_formula_model};
pub use kind::SchedulerKind;
pub use scheduler::NoiseScheduler;
pub use state::SchedulerState;
