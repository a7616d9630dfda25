//! Exit codes: how a program tells a script whose turn it is to act.

use std::process::{ExitCode as ProcessExitCode, Termination};

/// How a program ends. Every program of this project uses these codes and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ExitCode {
    /// It did what it was asked.
    Ok = 0,
    /// A check that it was asked to make has failed.
    CheckFailed = 1,
    /// Arguments, configuration, files, tokens: whoever started it can mend it.
    Operator = 2,
    /// Another process or the network failed.
    Peer = 3,
    /// Not enough memory, or another limit of the machine.
    Hardware = 4,
    /// A bug of this project.
    Bug = 70,
    /// Somebody stopped it (128 + SIGINT, as shells have it).
    Interrupted = 130,
}

impl ExitCode {
    /// The table for the end of `--help`.
    pub const HELP: &str = "\
Exit codes:
    0  done
    1  a check failed
    2  arguments, configuration, files or tokens are wrong
    3  another process or the network failed
    4  not enough memory, or another limit of the machine
   70  a bug: please report it
  130  interrupted";

    /// The number.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl From<ExitCode> for ProcessExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code.number())
    }
}

impl Termination for ExitCode {
    fn report(self) -> ProcessExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_help() {
        let codes = [
            ExitCode::Ok,
            ExitCode::CheckFailed,
            ExitCode::Operator,
            ExitCode::Peer,
            ExitCode::Hardware,
            ExitCode::Bug,
            ExitCode::Interrupted,
        ];
        for code in codes {
            let listed = ExitCode::HELP.lines().any(|line| line.trim().starts_with(&format!("{} ", code.number())));
            assert!(listed, "{code:?}");
        }
    }
}
