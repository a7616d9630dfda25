//! Writes to the terminal, or to whatever stands in its place. The macros of the standard library panic when that is gone.

use std::io::{self, Write};

use super::Failure;

/// Writes a line of a result to stdout. A reader that has heard enough, such as `head`, is no error.
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::operator(format!(
            "cannot write to the standard output: {error}\nhint: check where it is redirected to"
        ))),
        _ => Ok(()),
    }
}

/// Writes a line beside the result to stderr.
pub(crate) fn note(text: &str) {
    // Without stderr there is nobody to tell, and the result is what matters.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
