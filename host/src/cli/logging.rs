//! Sets up log lines on stderr, once per process.

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// For the broker: as configured, the environment variable going first.
pub(super) fn for_broker(log: &Log) {
    let directives = from_env().unwrap_or_else(|| log.level.clone());
    start(log.format, &directives);
}

/// For the other commands, whose own output says what matters: nothing below errors unless asked for.
pub(super) fn for_command() {
    start(
        LogFormat::Text,
        &from_env().unwrap_or_else(|| "error".to_owned()),
    );
}

fn from_env() -> Option<String> {
    std::env::var("TIDEGATE_LOG")
        .ok()
        .filter(|value| !value.is_empty())
}

fn start(format: LogFormat, directives: &str) {
    use std::io::IsTerminal;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second set-up (in tests) changes nothing, and that is fine.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
