//! Logs: where they go and what they look like. Standard output belongs to results, so logs go to standard error.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The environment variable that overrides what is logged, in the syntax of `tracing-subscriber`: `info,asyncdiff_worker=debug`.
pub const FILTER_VARIABLE: &str = "ASYNCDIFF_LOG";

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line, with the spans' fields: for machines.
    Json,
    /// Plain lines: for people.
    #[default]
    Text,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Every round.
    Debug,
    /// What an operator acts on.
    #[default]
    Info,
    /// Every tensor.
    Trace,
    /// Only what went wrong: for commands whose own output is what the user came for.
    Warn,
}

/// Why logging did not start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The environment variable does not parse.
    #[error(
        "{FILTER_VARIABLE} is {found:?}, which is no filter ({reason})\nhint: write it like info or info,asyncdiff_worker=debug"
    )]
    BadFilter {
        /// What it is set to.
        found: String,
        /// What the parser says.
        reason: ParseError,
    },
    /// Something in this process has started logging already.
    #[error("logging was started twice in one process")]
    StartedTwice,
}

/// A log format's name that is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{found:?} is no log format\nhint: use text or json")]
pub struct UnknownLogFormat {
    found: String,
}

/// Starts logging to standard error for this process.
pub fn init(format: LogFormat, verbosity: Verbosity) -> Result<(), TelemetryError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(found) => EnvFilter::try_new(&found).map_err(|reason| TelemetryError::BadFilter { found, reason })?,
        Err(_) => EnvFilter::new(verbosity.directives()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colours are for people: a file or a process that reads the log gets plain text.
    let builder = builder.with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_target(false).try_init(),
    };
    started.map_err(|_| TelemetryError::StartedTwice)
}

impl Verbosity {
    /// Libraries speak at warn and above only: a QUIC stack's info is nobody's.
    fn directives(self) -> String {
        let level = match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Trace => "trace",
            Self::Warn => "warn",
        };
        let ours = ["common", "coordinator", "model", "transport", "worker"];
        let ours: String = ours.iter().map(|name| format!(",asyncdiff_{name}={level}")).collect();
        format!("warn,asyncdiff={level}{ours}")
    }
}

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, UnknownLogFormat> {
        match text {
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(UnknownLogFormat { found: text.to_owned() }),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Json => "json",
            Self::Text => "text",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verbosity_is_a_filter() {
        for verbosity in [Verbosity::Debug, Verbosity::Info, Verbosity::Trace, Verbosity::Warn] {
            EnvFilter::try_new(verbosity.directives()).unwrap();
        }
    }

    #[test]
    fn a_format_survives_its_name() {
        for format in [LogFormat::Json, LogFormat::Text] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
