//! The program `coordinator`: see [`asyncdiff_coordinator::cli`].

fn main() -> std::process::ExitCode {
    asyncdiff_coordinator::cli::main()
}
