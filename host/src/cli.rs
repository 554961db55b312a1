//! The command line: one binary for the broker and for everything one does with it. Each subcommand is a file
//! below; they talk to a broker as any program could, over the admin API and the public client.
//! `serve` is the only one that is the broker.

mod admin_client;
mod admin_flags;
mod allocator;
pub mod bench;
mod bounded_lines;
pub mod broker_child;
mod cert;
mod chain_flags;
mod compile_plugin;
mod config;
mod confirm;
mod connect;
mod connection_flags;
mod context;
pub mod demo;
mod door;
mod early_answer;
mod error_hints;
mod event_lines;
mod failed_connection;
mod human_values;
mod link_test;
pub mod load;
mod local_broker;
mod logging;
mod loss;
mod obstacles;
mod output;
mod path_probe;
mod plugin;
pub mod process_usage;
mod publish;
mod route;
mod serve;
mod signals;
mod subscribe;
mod subscription;
mod target_broker;
mod time_limit;
mod topic;
mod upload_progress;
mod wait_notices;
mod wrong_usage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 124 --timeout is over, 130 interrupted before it was done.";

/// A WebAssembly-extensible event router.
///
/// Services publish events over QUIC; each subscription runs WebAssembly filters and transforms; what a
/// subscriber has not acknowledged stays on disk until it does.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker
    Serve(serve::Args),
    /// Publish events
    Pub(publish::Args),
    /// Receive the events of a subscription
    Sub(subscribe::Args),
    /// Create, list, show and delete topics
    Topic(topic::Args),
    /// Create, change, list, show, delete and resume subscriptions
    Subscription(subscription::Args),
    /// Create, change, list, show and delete routes, whose output goes to topics
    Route(route::Args),
    /// Upload, list and delete WebAssembly plugins
    Plugin(plugin::Args),
    /// List and give up stored events that cannot be read
    Loss(loss::Args),
    /// Show a whole broker at work: filters, routes, a SIGKILL half-way, and nothing lost
    Demo(demo::DemoArgs),
    /// Test the link to a broker: round trip, loss, reordering, rate, MTU, and what is chosen on it
    LinkTest(link_test::Args),
    /// Measure how fast the broker is on this machine
    Bench(bench::BenchArgs),
    /// Name brokers, so that commands need not be told where they are
    Context(context::Args),
    /// Make certificates for brokers and clients
    Cert(cert::Args),
    /// Check a configuration, or show what holds
    Config(config::Args),
    /// Compile a component, for a broker that waits for it
    #[command(name = COMPILE_PLUGIN, hide = true)]
    CompilePlugin(compile_plugin::Args),
}

/// The command with which a broker runs its own program for each component that it compiles. A program that has `serve` has to have
/// this one too.
pub const COMPILE_PLUGIN: &str = crate::plugin::job::COMMAND;

/// Runs a parsed command line on a runtime of its own and prints what is to be printed, errors included.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    if let Command::CompilePlugin(args) = &cli.command {
        return compile_plugin::run(args);
    }
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all();
    if let Command::Serve(_) = cli.command {
        allocator::set_up();
        if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
            builder.worker_threads(broker_threads());
        }
    }
    let runtime = match builder.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(&format!("error: cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run_command(cli));
    logging::finish();
    // A thread that still reads standard input cannot be woken, and nothing waits for it.
    runtime.shutdown_background();
    code
}

/// Threads that run the broker's tasks. One core is left to the threads beside them: the committer, the checkpointer and the
/// plugins. On two cores a second one only made the threads wait for each other: 7 % longer to the consumer, 10 % fewer
/// publishes.
#[must_use]
pub fn broker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.saturating_sub(1).max(1)
}

// Not meant to be cancelled; every command ends by itself or on an interrupt.
async fn run_command(cli: Cli) -> ExitCode {
    // The broker sets up its own log lines, once it has read how.
    let is_broker = matches!(cli.command, Command::Serve(_));
    if !is_broker && let Err(error) = logging::for_command() {
        output::note(&error_hints::told(&error));
        return ExitCode::from(wrong_usage::EXIT_CODE);
    }
    let result = match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Pub(args) => publish::run(args).await,
        Command::Sub(args) => subscribe::run(args).await,
        Command::Topic(args) => done(topic::run(&args)),
        Command::Subscription(args) => done(subscription::run(&args)),
        Command::Route(args) => done(route::run(&args)),
        Command::Plugin(args) => done(plugin::run(&args)),
        Command::Loss(args) => done(loss::run(&args)),
        Command::Demo(args) => demo::run(args).await,
        Command::LinkTest(args) => link_test::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Context(args) => done(context::run(&args)),
        Command::Cert(args) => done(cert::run(&args)),
        Command::Config(args) => done(config::run(&args)),
        Command::CompilePlugin(args) => Ok(compile_plugin::run(&args)),
    };
    match result {
        Ok(code) => code,
        Err(error) if !is_broker && is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) if is_broker => {
            logging::tell_end(&error);
            ExitCode::FAILURE
        }
        Err(error) => {
            output::note(&error_hints::told(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

// Of the error that ends a command.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<time_limit::TimeIsOver>() {
        time_limit::EXIT_CODE
    } else if error.is::<wrong_usage::WrongUsage>() {
        wrong_usage::EXIT_CODE
    } else {
        1
    }
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

fn is_closed_output(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<output::OutputError>()
        .is_some_and(output::OutputError::is_closed)
}

#[cfg(test)]
mod tests;
