//! The command line, for this crate's program and for programs that start themselves again as a worker.

mod device;
mod devices;
mod error;
mod home;
mod join;
mod lifetime;
mod member;
mod membership;
mod options;

use std::ffi::OsString;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_common::telemetry::{self, Verbosity};
use asyncdiff_common::{heap, system};
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

pub use error::CliError;
pub use lifetime::Lifetime;
pub use options::{JoinOptions, LogOptions};

/// The environment variable that a join line may come from: a command line is visible to other users of a machine.
pub const JOIN_LINE_VARIABLE: &str = "ASYNCDIFF_JOIN_LINE";

/// A worker computes a part of a diffusion model for a coordinator.
#[derive(Debug, Parser)]
#[command(name = "worker", version, after_help = ExitCode::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a cluster and work until stopped.
    #[command(after_help = ExitCode::HELP)]
    Join(Box<JoinOptions>),
    /// List what this machine can compute with.
    Devices {
        /// Print one JSON object instead of lines for people.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    heap::keep_for_reuse();
    main_from(std::env::args_os(), Lifetime::UntilSignalled)
}

/// Runs the program with these arguments, the first of which is the program's name.
pub fn main_from(arguments: impl IntoIterator<Item = OsString>, lifetime: Lifetime) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Prints help to stdout and mistakes to stderr; where that fails there is nobody to tell.
            drop(error.print());
            let is_answer = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if is_answer { ExitCode::Ok } else { ExitCode::Operator };
        }
    };
    let done = match cli.command {
        Command::Devices { json } => devices::list(json),
        Command::Join(options) => join(*options, lifetime),
    };
    match done {
        Ok(()) => ExitCode::Ok,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

fn join(options: JoinOptions, lifetime: Lifetime) -> Result<(), CliError> {
    telemetry::init(options.log.log_format, Verbosity::Info)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(system::BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    // Actors share one thread: layers are computed on the device's, and the network has its own.
    runtime.block_on(join::join(options, lifetime))
}
