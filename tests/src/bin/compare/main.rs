//! Tidegate beside its peers, on this machine: the same loads through each broker's public client, each broker a
//! process of its own that this program starts, runs in turns, medians and spreads. Run by hand, since it takes minutes:
//!
//! `cargo run --release -p tidegate-tests --bin compare -- [WORKLOAD…] [--quick]`
//!
//! Called as `compare serve …` the program is Tidegate's own command line: that is the broker it measures, so nothing
//! else has to be built. As `compare relay …` it is what the broker's floor is measured with.

mod args;
mod broker;
mod event_shape;
mod keep_awake;
mod limits;
mod load;
mod nats;
mod relay;
mod report;
mod tidegate;
mod usage;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::args::Args;
use self::keep_awake::Awake;
use self::workloads::Bench;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, _)) if first == "serve" || first == ::tidegate::cli::COMPILE_PLUGIN => {
            return ::tidegate::cli::run(::tidegate::cli::Cli::parse());
        }
        Some((first, rest)) if first == relay::COMMAND => return relay::run(rest),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(compare(Args::parse())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs what was asked for and prints it. Tables are printed as they come, so an interrupt loses only the one at hand.
async fn compare(args: Args) -> anyhow::Result<ExitCode> {
    let json = args.json.clone();
    let _awake = args.awake.then(Awake::keep).transpose()?;
    let mut bench = Bench::new(args)?;
    println!("{}", bench.preamble());
    let ran = tokio::select! {
        ran = bench.run() => ran,
        interrupted = interrupt() => interrupted,
    };
    if let Some(path) = json {
        let text = format!("{:#}\n", bench.json());
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    ran?;
    Ok(if bench.has_failures() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

// Ends with an error when somebody asks the program to stop, so that the brokers are ended like after any other.
async fn interrupt() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    bail!("interrupted");
}
