//! `tidegate serve`: reads the configuration, sets up logs and signals, and runs the broker.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::logging;
use super::signals::Signals;
use crate::app;
use crate::config::Config;

/// Exit code after a second signal: 128 + SIGINT, as shells have it.
const ABORTED: i32 = 130;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration; without one the broker runs for development on this machine (see `tidegate config show`)
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything durable lives, instead of what the configuration says
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Start although committed events are damaged on disk, and go on without them
    #[arg(long)]
    accept_loss: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(dir) = args.data_dir {
        config.data_dir = dir;
    }
    config.store.accept_loss = args.accept_loss;
    logging::for_broker(&config.log);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let shutdown = CancellationToken::new();
    let mut signals = Signals::new()?;
    let watched = shutdown.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        watched.cancel();
        signals.next().await;
        // What is committed is safe; the second signal asks not to wait for anything else.
        logging::finish();
        std::process::exit(ABORTED);
    });
    app::run(config, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
