//! `worker devices`: what this machine can compute with.

use asyncdiff_common::config::format_bytes;

use super::CliError;
use asyncdiff_common::system;

pub(super) fn list() -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = format_bytes(system::available_memory_bytes() as f64);
    println!("cpu  {cores} threads  {memory} available");
    Ok(())
}
