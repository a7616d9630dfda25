//! The worker's program; everything is in the library.

use asyncdiff_common::exit::ExitCode;

fn main() -> ExitCode {
    asyncdiff_worker::cli::main()
}
