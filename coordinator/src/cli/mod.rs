//! The command line: what can be typed. What is then done is in [`commands`](crate::commands).

mod args;
mod connect;
mod console;
mod failure;
mod partition_file;

use std::process::ExitCode as ProcessExitCode;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_common::telemetry::{self, LogFormat, Verbosity};
use asyncdiff_common::{heap, system};
use clap::{Parser, Subcommand};

pub(crate) use args::{DtypeArg, JobArgs, OutputArgs, check_place};
pub(crate) use connect::{CLIENT_LINE_FILE, ConnectArgs, default_state_dir};
pub(crate) use console::{note, print_line};
pub use failure::Failure;

use crate::LOCAL_WORKER;
use crate::commands;
use crate::local_workers::run_worker;

/// What `--help` begins with.
const ABOUT: &str = "Makes a picture with several workers at once: each computes its part of the denoiser";

/// What `--help` ends with, before the exit codes.
const EXAMPLES: &str = "\
Examples:
  coordinator run \"a red circle on a white background\"
  coordinator serve --config cluster-configs/one-node-cpu.toml
  coordinator submit \"a green heart above a purple square on a gray background\" -o heart.png
  coordinator plan --components 3

";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "coordinator", version, about = ABOUT, propagate_version = true)]
#[command(after_help = format!("{EXAMPLES}{}", ExitCode::HELP), arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// How log lines are written to stderr
    #[arg(long, global = true, value_name = "text|json", default_value_t, help_heading = "Logging")]
    log_format: LogFormat,

    /// Log more: -v for what an operator acts on, -vv for every round, -vvv for every tensor
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Logging")]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a picture here and now: starts a coordinator and local workers, and ends them
    Run(Box<commands::run::RunArgs>),
    /// Run a coordinator that workers join and clients submit jobs to
    Serve(commands::serve::ServeArgs),
    /// Submit a job to a running coordinator and fetch its picture
    Submit(Box<commands::submit::SubmitArgs>),
    /// List jobs
    Jobs(commands::queries::ListArgs),
    /// Show one job, or wait for its picture
    Job(commands::queries::JobArgs),
    /// Cancel a job
    Cancel(commands::queries::JobIdArgs),
    /// List workers
    Workers(commands::queries::ListArgs),
    /// Have a worker leave as soon as no job needs it: its part of running jobs moves to others first
    Drain(commands::queries::DrainArgs),
    /// Show how a job would be split and how long it would take, without running it
    Plan(Box<commands::plan::PlanArgs>),
    /// Print a new line for `worker join`
    #[command(visible_alias = "token")]
    JoinLine(commands::join_line::JoinLineArgs),
    /// Check golden data of other implementations through the same path as a job
    Verify(commands::verify::VerifyArgs),
    /// Measure what parallelism brings on this machine
    Bench(commands::bench::BenchArgs),
}

/// Parses the process's arguments, does what they say, and says how it went.
#[must_use]
pub fn main() -> ProcessExitCode {
    heap::keep_for_reuse();
    // Not a subcommand of the parser: a worker has a command line of its own, and sets up its threads before any other exists.
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == LOCAL_WORKER) {
        return run_worker(std::iter::once(LOCAL_WORKER.into()).chain(arguments)).into();
    }
    // Usage errors end here with clap's own code, which is that of operator errors.
    let cli = Cli::parse();
    if let Err(error) = telemetry::init(cli.log_format, cli.verbosity()) {
        return Failure::operator(error).report();
    }
    match on_runtime(cli.command) {
        Ok(code) => code.into(),
        Err(failure) => failure.report(),
    }
}

impl Cli {
    /// Where logs are the only sign of life, what an operator acts on is logged unasked.
    fn verbosity(&self) -> Verbosity {
        let unasked = u8::from(matches!(self.command, Command::Serve(_)));
        match self.verbose.saturating_add(unasked) {
            0 => Verbosity::Warn,
            1 => Verbosity::Info,
            2 => Verbosity::Debug,
            _ => Verbosity::Trace,
        }
    }
}

fn on_runtime(command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(system::BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Hardware, format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(dispatch(command));
    // A file that is still being read or a name that is still looked up must not keep the process.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => commands::run::run(*args).await,
        Command::Serve(args) => commands::serve::run(args).await,
        Command::Submit(args) => commands::submit::run(*args).await,
        Command::Jobs(args) => commands::queries::jobs(args).await,
        Command::Job(args) => commands::queries::job(args).await,
        Command::Cancel(args) => commands::queries::cancel(args).await,
        Command::Drain(args) => commands::queries::drain(args).await,
        Command::Workers(args) => commands::queries::workers(args).await,
        Command::Plan(args) => commands::plan::run(*args).await,
        Command::JoinLine(args) => commands::join_line::run(args).await,
        Command::Verify(args) => commands::verify::run(args).await,
        Command::Bench(args) => commands::bench::run(args).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_lists_exit_codes() {
        let help = Cli::command().render_help().to_string();
        assert!(help.contains("130") && help.contains("--log-format"), "{help}");
    }
}
