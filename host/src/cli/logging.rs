//! Sets up log lines on stderr, once per process. Those of a broker never wait for whoever reads them, see
//! [`lines`](crate::lines); those of other commands do, as the rest of their output does.

use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Log, LogFormat};
use crate::lines::{self, LineWriter};

/// How long the end of a broker waits for somebody to read its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The same for a thread that panicked: the process may be about to end, or may go on.
const PANIC_LINES: Duration = Duration::from_millis(100);

/// For the broker: as configured, the environment variable going first. Panics are told in the log too, since telling
/// them as usual would wait for whoever reads standard error.
pub(super) fn for_broker(log: &Log) {
    let directives = from_env().unwrap_or_else(|| log.level.clone());
    match lines::stderr() {
        Some(lines) => {
            start(log.format, &directives, move || LineWriter(lines));
            panic::set_hook(Box::new(tell_panic));
        }
        // Without a thread for it the broker will hardly start, but whoever runs it is to know why.
        None => start(log.format, &directives, std::io::stderr),
    }
}

/// For the other commands, whose own output says what matters: nothing below errors unless asked for.
pub(super) fn for_command() {
    let directives = from_env().unwrap_or_else(|| "error".to_owned());
    start(LogFormat::Text, &directives, std::io::stderr);
}

/// The error that ends a broker.
pub(super) fn tell_end(error: &anyhow::Error) {
    let line = format!("error: {error:#}\n");
    match lines::stderr() {
        Some(lines) => lines.push(line.as_bytes()),
        None => eprint!("{line}"),
    }
}

/// Lets the last lines of a broker come out, as far as somebody reads them.
pub(super) fn finish() {
    lines::flush(LAST_LINES);
}

fn from_env() -> Option<String> {
    std::env::var("TIDEGATE_LOG")
        .ok()
        .filter(|value| !value.is_empty())
}

fn start<W>(format: LogFormat, directives: &str, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    use std::io::IsTerminal;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives))
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    // A second set-up (in tests) changes nothing, and that is fine.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

fn tell_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let at = info.location().map(ToString::to_string);
    let why = info.payload_as_str().unwrap_or("no text");
    let trace = std::backtrace::Backtrace::capture();
    let trace = match trace.status() {
        std::backtrace::BacktraceStatus::Captured => trace.to_string(),
        _ => String::new(),
    };
    tracing::error!(
        thread,
        at,
        panic = why,
        trace,
        "a thread panicked, which is a bug of Tidegate"
    );
    lines::flush(match thread {
        "main" => LAST_LINES,
        _ => PANIC_LINES,
    });
}
