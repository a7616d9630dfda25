//! How a command ends when it does not do what it was asked to: a text, a `hint:` line, an exit code.

use std::fmt;

use asyncdiff_common::config::SettingsError;
use asyncdiff_common::exit::ExitCode;
use asyncdiff_transport::identity::{IdentityError, StateDirError, TokenError};

use crate::api::{ApiError, ClientError, ServeError};
use crate::cluster::ClusterError;
use crate::job::{Fault, JobError};
use crate::local_cluster::LocalClusterError;
use crate::model_store::StoreError;
use crate::picture::PictureError;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: ExitCode,
    /// What failed, what was found, and on a line of its own what to do.
    text: String,
}

impl Failure {
    /// A failure with an exit code.
    #[must_use]
    pub fn new(exit: ExitCode, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }

    /// The operator can mend it.
    #[must_use]
    pub fn operator(text: impl fmt::Display) -> Self {
        Self::new(ExitCode::Operator, text.to_string())
    }

    /// The user ended it.
    #[must_use]
    pub fn interrupted(text: impl fmt::Display) -> Self {
        Self::new(ExitCode::Interrupted, text.to_string())
    }

    /// Says on stderr what happened, and gives what the process ends with.
    pub(crate) fn report(&self) -> std::process::ExitCode {
        super::note(&format!("error: {self}"));
        self.exit.into()
    }

    fn with_fault(fault: Fault, text: impl fmt::Display) -> Self {
        let exit = match fault {
            Fault::Bug => ExitCode::Bug,
            Fault::Cancelled => ExitCode::Interrupted,
            Fault::Hardware => ExitCode::Hardware,
            Fault::Operator => ExitCode::Operator,
            Fault::Peer => ExitCode::Peer,
        };
        Self::new(exit, text.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::with_fault(error.fault, &error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(error) => error.into(),
            ClientError::Address { .. } => Self::operator(error),
            ClientError::Identity(_) => Self::with_fault(Fault::Bug, error),
            ClientError::Broken { .. }
            | ClientError::Malformed { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Unreachable { .. } => Self::with_fault(Fault::Peer, error),
        }
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self::with_fault(error.fault, format!("{}\nhint: {}", error.message, error.hint))
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        error.to_error().into()
    }
}

impl From<LocalClusterError> for Failure {
    fn from(error: LocalClusterError) -> Self {
        match error {
            LocalClusterError::Cluster(error) => error.into(),
            LocalClusterError::Exited { .. } => Self::with_fault(Fault::Peer, error),
            LocalClusterError::Identity(_) => Self::with_fault(Fault::Bug, error),
            LocalClusterError::Process(_) | LocalClusterError::Start(_) => Self::with_fault(Fault::Hardware, error),
        }
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        let fault = if matches!(error, SettingsError::NoDefault { .. }) { Fault::Bug } else { Fault::Operator };
        Self::with_fault(fault, error)
    }
}

macro_rules! operators_fault {
    ($($error:ty),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::operator(error)
            }
        })*
    };
}

operators_fault!(IdentityError, PictureError, ServeError, StateDirError, StoreError, TokenError);
