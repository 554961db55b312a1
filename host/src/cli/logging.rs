//! Sets up log lines on stderr, once per process. Those of a broker never wait for whoever reads them, see
//! [`lines`](crate::telemetry::log_output); those of other commands do, as the rest of their output does.

mod json_lines;
#[cfg(test)]
mod testing;

use std::fmt;
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use self::json_lines::Lifted;
use super::error_hints;
use crate::config::{Log, LogFormat, check_log_levels};
use crate::domain::plain_text;
use crate::store;
use crate::telemetry::log_output::{self, LineWriter};

/// How long the end of a broker waits for somebody to read its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);
/// The same for a thread that panicked: the process may be about to end, or may go on.
const PANIC_LINES: Duration = Duration::from_millis(100);

/// For the broker: as configured, the environment variable going first. Panics are told in the log too, since telling
/// them as usual would wait for whoever reads standard error.
///
/// # Errors
///
/// The environment variable has no level in it.
pub(super) fn for_broker(log: &Log) -> anyhow::Result<()> {
    let directives = from_env()?.unwrap_or_else(|| log.level.clone());
    match log_output::stderr() {
        Some(lines) => {
            start(log.format, &directives, move || LineWriter(lines));
            panic::set_hook(Box::new(tell_panic));
        }
        // Without a thread for it the broker will hardly start, but whoever runs it is to know why.
        None => start(log.format, &directives, std::io::stderr),
    }
    Ok(())
}

/// For the other commands, whose own output says what matters: nothing below errors unless asked for.
///
/// # Errors
///
/// The environment variable has no level in it.
pub(super) fn for_command() -> anyhow::Result<()> {
    let directives = from_env()?.unwrap_or_else(|| "error".to_owned());
    start(LogFormat::Text, &directives, std::io::stderr);
    Ok(())
}

/// The error that ends a broker.
pub(super) fn tell_end(error: &anyhow::Error) {
    let line = error_hints::told(error) + "\n";
    match log_output::stderr() {
        Some(lines) => lines.push(line.as_bytes()),
        None => eprint!("{line}"),
    }
}

/// Lets the last lines of a broker come out, as far as somebody reads them.
pub(super) fn finish() {
    log_output::flush(LAST_LINES);
}

fn from_env() -> anyhow::Result<Option<String>> {
    let value = std::env::var_os("TIDEGATE_LOG").filter(|value| !value.is_empty());
    let Some(value) = value else { return Ok(None) };
    let value = value.to_string_lossy().into_owned();
    check_log_levels(&value).map_err(|why| anyhow::anyhow!("TIDEGATE_LOG: {why}"))?;
    Ok(Some(value))
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
        LogFormat::Text => builder.fmt_fields(OneLine).try_init(),
        LogFormat::Json => builder.json().event_format(Lifted::new()).try_init(),
    };
}

/// Fields as they are formatted otherwise, but on one line and without what controls a terminal: peers and guests have their
/// words in them, and these must not pass for lines of the broker.
struct OneLine;

impl<'writer> FormatFields<'writer> for OneLine {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        writer.write_str(&plain_text(&text))
    }
}

fn tell_panic(info: &PanicHookInfo<'_>) {
    if store::is_panic_expected() {
        // Whoever catches it says what it means.
        let at = info.location().map(ToString::to_string);
        tracing::debug!(at, panic = info.payload_as_str(), "a database panicked");
        return;
    }
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
    log_output::flush(match thread {
        "main" => LAST_LINES,
        _ => PANIC_LINES,
    });
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use super::testing::Written;
    use super::*;

    #[test]
    fn nobodys_words_make_a_line_or_reach_the_terminal() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(written.writer())
            .with_ansi(false)
            .fmt_fields(OneLine)
            .finish();
        let reason = "bad\r\n2026 ERROR x: y\0\u{1b}[31m\u{9b}\u{202e}, größer";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(%reason, said = reason, "given up: {reason}");
        });
        let text = written.text();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line = text.trim_end_matches('\n');
        assert!(line.chars().all(crate::domain::is_plain), "{text:?}");
        assert!(
            line.contains(r"reason=bad\r\n2026 ERROR x: y\u{0}\u{1b}[31m\u{9b}\u{202e}, größer"),
            "{line}"
        );
    }

    // What the log says of the panics in `run`.
    fn told(run: impl FnOnce()) -> String {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(written.writer())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _ = catch_unwind(AssertUnwindSafe(run));
        });
        written.text()
    }

    #[test]
    fn a_panic_that_says_what_is_wrong_with_a_database_is_not_called_a_bug() {
        // Other tests may panic meanwhile, which is told as before.
        let here = thread::current().id();
        let before = Arc::new(panic::take_hook());
        let others = before.clone();
        panic::set_hook(Box::new(move |info| match thread::current().id() == here {
            true => tell_panic(info),
            false => others(info),
        }));
        let of_ours = told(|| panic!("of ours"));
        let of_sled = told(store::failing::panic_of_sled);
        panic::set_hook(Box::new(move |info| before(info)));
        assert!(of_ours.contains("a bug of Tidegate"), "{of_ours}");
        assert_eq!(of_sled, "");
    }
}
