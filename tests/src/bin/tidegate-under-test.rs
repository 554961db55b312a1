//! The broker's own entry point, so that the tests of this package find a binary to run.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main()
}
