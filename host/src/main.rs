//! The one binary: parses the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
