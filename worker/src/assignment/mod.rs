//! From an assignment to something that can be loaded: the program, what is to be loaded, and whether it fits.

mod check;
mod memory;
mod parts;

use std::collections::HashMap;
use std::sync::Arc;

use asyncdiff_common::wire::{Assignment, DenoiserSpec, WorkerFailure};
use asyncdiff_model::families::{self, DenoiserConfig, DenoiserProgram, DenoiserShape};
use asyncdiff_model::kernels::Kernels;
use asyncdiff_plan::Rank;
use asyncdiff_transport::WorkerName;

pub(crate) use memory::MemoryInUse;
pub(crate) use parts::{ComponentKey, Part};

use crate::device::format;
use crate::failure::model_failure;

/// An assignment that was found to make sense, with what follows from it.
#[derive(Clone)]
pub(crate) struct CheckedAssignment {
    pub(crate) assignment: Arc<Assignment>,
    pub(crate) program: DenoiserProgram,
    /// One for each component, in order.
    pub(crate) parts: Vec<Part>,
    /// What runs hold at a time, at most.
    activation_bytes: u64,
    /// The other ranks' names.
    pub(crate) peers: HashMap<Rank, WorkerName>,
}

impl CheckedAssignment {
    /// Builds the program and compares everything in the assignment with it, so that nothing that comes later can be out of place.
    pub(crate) fn new(assignment: Arc<Assignment>, kernels: &Kernels) -> Result<Self, WorkerFailure> {
        let program = build_program(&assignment.denoiser)?;
        let peers = check::peers(&assignment)?;
        check::plan(&assignment, &program.program)?;
        let kernels = kernels.with_format(format(assignment.denoiser.compute));
        let parts = parts::parts(&assignment, &program, &kernels)?;
        let activation_bytes = memory::activation_bytes(&program, &parts, assignment.rows, &kernels)
            .saturating_add(memory::register_bytes(&program, &assignment));
        Ok(Self { assignment, program, parts, activation_bytes, peers })
    }

    /// Refuses what does not fit the memory that is left.
    pub(crate) fn check_memory(&self, in_use: &MemoryInUse) -> Result<(), WorkerFailure> {
        memory::check(self, in_use)
    }
}

/// The program of a denoiser.
pub(crate) fn build_program(denoiser: &DenoiserSpec) -> Result<DenoiserProgram, WorkerFailure> {
    let config = DenoiserConfig::from_json(&denoiser.config).map_err(model_failure)?;
    let shape = DenoiserShape { height: denoiser.height, width: denoiser.width, tokens: denoiser.tokens };
    families::build(&config, &shape).map_err(model_failure)
}
