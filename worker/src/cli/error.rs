//! What goes wrong before and around a worker's work, with its exit code.

use std::io;
use std::path::PathBuf;

use asyncdiff_common::exit::ExitCode;
use asyncdiff_common::telemetry::TelemetryError;
use asyncdiff_transport::identity::{IdentityError, StateDirError, TokenError};
use asyncdiff_transport::quic::{EnrolError, StartError};
use thiserror::Error;

use crate::WorkerError;

/// Why the program ends with an error.
#[derive(Debug, Error)]
pub enum CliError {
    /// The worker is enrolled under another name.
    #[error(
        "{dir} is enrolled as {found} and --name says {wanted}\nhint: leave out --name, or give a join line to enrol again"
    )]
    EnrolledAs {
        /// The state directory.
        dir: PathBuf,
        /// The name in its certificate.
        found: String,
        /// The name on the command line.
        wanted: String,
    },
    /// A report could not be written as JSON.
    #[error("cannot write the list as JSON: {0}\nhint: this is a bug: please report it")]
    Json(#[from] serde_json::Error),
    /// Enrolment failed.
    #[error("cannot join: {0}")]
    Enrol(#[from] EnrolError),
    /// The identity in the state directory cannot be used.
    #[error("cannot use this worker's identity: {0}")]
    Identity(#[from] IdentityError),
    /// The file with the join line cannot be read.
    #[error("cannot read the join line from {path}: {source}\nhint: check the path and its permissions")]
    LineFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// Neither a line nor a membership.
    #[error(
        "{dir} has joined no cluster and no join line was given\nhint: run `worker join LINE` with the line that the coordinator printed"
    )]
    NoLine {
        /// The state directory.
        dir: PathBuf,
    },
    /// No place for the state directory is known.
    #[error("no place for the worker's state is known: neither XDG_STATE_HOME nor HOME is set\nhint: give --state-dir")]
    NoStateHome,
    /// The ports for the workers of a process run out.
    #[error(
        "there are no ports from {first} on for {workers} workers, two for each\nhint: give --listen a lower port, or none"
    )]
    NoPorts {
        /// The first one's.
        first: u16,
        /// How many workers there are.
        workers: u32,
    },
    /// One of several workers of this process ended.
    #[error("worker {worker}: {error}")]
    OneOfSeveral {
        /// Its name.
        worker: String,
        /// Why.
        error: Box<CliError>,
    },
    /// The actors' runtime cannot be made.
    #[error("cannot start the worker's runtime: {0}\nhint: see this user's limits (`ulimit -a`)")]
    Runtime(io::Error),
    /// Signals cannot be watched.
    #[error("cannot watch for signals: {0}\nhint: see this user's limits (`ulimit -a`)")]
    Signals(io::Error),
    /// The network endpoints do not start.
    #[error("cannot start the network: {0}")]
    Start(#[from] StartError),
    /// The state directory cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Logs cannot be started.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The join line cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// All default state directories are in use.
    #[error("all {limit} state directories under {home} are in use\nhint: give --state-dir")]
    TooManyWorkers {
        /// Where they are.
        home: PathBuf,
        /// How many.
        limit: u32,
    },
    /// The worker ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl CliError {
    /// The exit code that says whose fault it is.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::OneOfSeveral { error, .. } => error.exit_code(),
            Self::Worker(error) => error.exit_code(),
            Self::Enrol(EnrolError::Unreachable { .. } | EnrolError::VersionMismatch { .. }) => ExitCode::Peer,
            Self::Json(_) => ExitCode::Bug,
            Self::Runtime(_) | Self::Signals(_) => ExitCode::Hardware,
            Self::Enrol(_)
            | Self::EnrolledAs { .. }
            | Self::Identity(_)
            | Self::LineFile { .. }
            | Self::NoLine { .. }
            | Self::NoPorts { .. }
            | Self::NoStateHome
            | Self::Start(_)
            | Self::StateDir(_)
            | Self::Telemetry(_)
            | Self::Token(_)
            | Self::TooManyWorkers { .. } => ExitCode::Operator,
        }
    }
}
