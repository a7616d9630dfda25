//! The number of threads that compute. Rayon and candle read it from the environment, when their pools are made or at every product, so it must
//! be there before the process has a second thread: the program starts itself again with it, keeping its process id.

use std::num::NonZeroU32;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::CliError;

/// What rayon and candle read.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Returns if the environment says this number already; else the program starts again, and this returns only if that fails.
pub(super) fn ensure(threads: NonZeroU32) -> Result<(), CliError> {
    let wanted = threads.to_string();
    if VARIABLES.iter().all(|variable| std::env::var(variable).is_ok_and(|found| found == wanted)) {
        return Ok(());
    }
    let failed = |source| CliError::Threads { threads: threads.get(), source };
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    let mut arguments = std::env::args_os();
    if let Some(program) = arguments.next() {
        command.arg0(program);
    }
    Err(failed(command.args(arguments).envs(VARIABLES.map(|variable| (variable, &wanted))).exec()))
}
