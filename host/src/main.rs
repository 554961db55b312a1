//! The one binary: parses the command line and hands over to the library.

use std::process::ExitCode;

use clap::Parser;
use tidegate::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::run(cli));
    // A thread that still reads standard input cannot be woken, and nothing waits for it.
    runtime.shutdown_background();
    code
}
