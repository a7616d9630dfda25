//! The program `coordinator` under another name: what tests of this crate start as worker processes, since the name of another crate's program is
//! not known here.

fn main() -> std::process::ExitCode {
    asyncdiff_coordinator::cli::main()
}
