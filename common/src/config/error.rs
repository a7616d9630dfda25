//! What can be wrong with a configuration file.

use thiserror::Error;

/// Why a configuration cannot be used. The operator's fault but for [`NoDefault`](Self::NoDefault).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// A value of the right type that does not mean anything here.
    #[error("{place}: {key} is {found}; expected {expected}\nhint: default.toml explains every key")]
    BadValue {
        /// File and line.
        place: String,
        /// The key, with its table.
        key: String,
        /// The value.
        found: String,
        /// What would do.
        expected: String,
    },
    /// The embedded defaults lack a key that the program reads: a bug.
    #[error("the built-in defaults have no {key}\nhint: this is a bug, please report it")]
    NoDefault {
        /// The key.
        key: String,
    },
    /// The file is no TOML.
    #[error("{file} is no valid TOML: {reason}\nhint: quote texts, durations and sizes, as in lost_after = \"1500ms\"")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says, with the line.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read {file}: {reason}\nhint: check the path and its permissions")]
    Unreadable {
        /// The file.
        file: String,
        /// What the operating system says.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{place}: there is no key {key}\nhint: {advice}")]
    UnknownKey {
        /// File and line.
        place: String,
        /// The key, with its table.
        key: String,
        /// The nearest key that exists.
        advice: String,
    },
    /// A value of another type.
    #[error("{place}: {key} must be {expected}, found {found}\nhint: default.toml explains every key")]
    WrongType {
        /// File and line.
        place: String,
        /// The key, with its table.
        key: String,
        /// The type that is needed, with an example.
        expected: String,
        /// What was found.
        found: String,
    },
}
