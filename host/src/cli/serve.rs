//! `tidegate serve`: reads the configuration, sets up logs and signals, and runs the broker. SIGHUP has it read the policy again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::signals::{self, INTERRUPTED, Signals};
use super::{error_hints, logging};
use crate::app::{self, Reload};
use crate::config::Config;

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
    logging::for_broker(&config.log)?;
    for warning in config.warnings() {
        tracing::warn!("{}", error_hints::warned(warning));
    }
    let shutdown = CancellationToken::new();
    let mut signals = Signals::new()?;
    // Without a file there is nothing to read again: whoever closes the terminal ends the broker, in order, unless whoever started it
    // has it go on (`nohup`).
    let is_to_go_on = args.config.is_none() && signals::ignores_hangups();
    let mut hangups = match is_to_go_on {
        true => None,
        false => Some(signals::hangups()?),
    };
    let reload = args.config.map(|file| Reload {
        file,
        asked: Arc::default(),
    });
    let asked = reload.as_ref().map(|reload| Arc::clone(&reload.asked));
    let mut hung_up = async move || match &mut hangups {
        Some(hangups) => hangups.recv().await,
        None => std::future::pending().await,
    };
    let watched = shutdown.clone();
    tokio::spawn(async move {
        let name = loop {
            tokio::select! {
                name = signals.next() => break name,
                _ = hung_up() => match &asked {
                    Some(asked) => asked.notify_one(),
                    None => break "SIGHUP",
                },
            }
        };
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        watched.cancel();
        signals.next().await;
        // What is committed is safe; the second signal asks not to wait for anything else.
        logging::finish();
        std::process::exit(i32::from(INTERRUPTED));
    });
    app::run(config, reload, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}
