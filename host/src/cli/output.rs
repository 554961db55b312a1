//! Printing: tables for people, JSON for scripts. Everything that goes to standard output goes through here,
//! so that a reader that stops early (`| head`) ends the program quietly.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;

use crate::domain::{plain_json, plain_lines};

/// Standard output does not take what is printed. Of a type of its own, since a broken pipe elsewhere, such as a connection that
/// a server closes, is no reason to end quietly.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
pub(super) struct OutputError(#[source] pub(super) io::Error);

impl OutputError {
    /// Whoever reads it has seen enough, as with `| head`.
    pub(super) fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Whether standard output was closed when the program began. By now it is `/dev/null`, which takes everything: Rust opens that in
/// its place, so that no file gets its number.
pub(super) fn was_closed() -> bool {
    WAS_CLOSED.load(Ordering::Relaxed)
}

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

// SAFETY: the C library calls what is in this section once, before `main`, on the only thread, and what it calls needs nothing
// that is set up later.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look_at_standard_output;

#[cfg(target_os = "linux")]
extern "C" fn look_at_standard_output() {
    // SAFETY: it asks for the flags of a descriptor, which need not exist.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Prints a line, or several; what would control a terminal is written out.
///
/// # Errors
///
/// Nobody reads, or standard output is otherwise gone.
pub(super) fn line(text: &str) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    out.write_all(plain_lines(text).as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush())
        .map_err(OutputError)
}

/// For whom it is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// People.
    #[default]
    Table,
    /// People with a wide terminal.
    Wide,
    /// Scripts. What a field is called and means does not change.
    Json,
}

/// How to print.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct OutputFlags {
    /// How to print: a table, a wide one with more columns, or JSON for scripts
    #[arg(
        long,
        short,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = true,
        help_heading = "Output"
    )]
    output: Format,
    /// The same as --output json
    #[arg(long, conflicts_with = "output", help_heading = "Output")]
    json: bool,
}

impl OutputFlags {
    /// What is wanted.
    pub(super) fn format(&self) -> Format {
        match self.json {
            true => Format::Json,
            false => self.output,
        }
    }
}

/// Says something beside what is printed, on standard error. Nobody has to read it.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{}", plain_lines(text));
}

/// Prints `value` as indented JSON, or what `human` makes of it.
pub(super) fn either<T: Serialize>(
    format: Format,
    value: &T,
    human: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Json => plain_json(&serde_json::to_string_pretty(value)?).into_owned(),
        Format::Table | Format::Wide => human(value),
    };
    Ok(line(&text)?)
}

/// Prints what was done to each of several things, as it is done: a line each, or JSON: of one the object, of several a list. What was
/// done before something failed is told.
pub(super) fn each(
    format: Format,
    count: usize,
    done: impl Iterator<Item = anyhow::Result<(serde_json::Value, String)>>,
) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    let mut failed = None;
    for one in done {
        match one {
            Ok((answer, said)) => {
                if format != Format::Json {
                    line(&said)?;
                }
                answers.push(answer);
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    if format == Format::Json && !answers.is_empty() {
        match (count, answers.pop()) {
            (1, Some(only)) => either(format, &only, |_| String::new())?,
            (_, last) => {
                answers.extend(last);
                either(format, &answers, |_| String::new())?;
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The first `narrow` of the columns; all of them where there is room.
pub(super) fn columns<'a>(
    format: Format,
    narrow: usize,
    heading: &'a [&'a str],
    mut rows: Vec<Vec<String>>,
) -> (&'a [&'a str], Vec<Vec<String>>) {
    if format == Format::Wide {
        return (heading, rows);
    }
    for row in &mut rows {
        row.truncate(narrow);
    }
    (&heading[..narrow.min(heading.len())], rows)
}

/// Rows under a heading, or `nothing` when there is none.
pub(super) fn table(nothing: &str, heading: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return nothing.to_owned();
    }
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.to_vec());
    table.add_rows(rows);
    trimmed(&table)
}

/// Names and their values below each other; values may have several lines.
pub(super) fn details(rows: Vec<(&str, String)>) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.add_rows(
        rows.into_iter()
            .map(|(name, value)| [name.to_owned(), value]),
    );
    trimmed(&table)
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_columns() {
        let rows = vec![
            vec!["orders.eu".to_owned(), "7".to_owned()],
            vec!["a".to_owned(), "12".to_owned()],
        ];
        let text = table("none", &["TOPIC", "NEXT"], rows);
        assert_eq!(text, "TOPIC      NEXT\norders.eu  7\na          12");
        assert_eq!(table("none", &["TOPIC"], vec![]), "none");
        assert_eq!(
            details(vec![("name", "a".into()), ("topics", "b\nc".into())]),
            "name    a\ntopics  b\n        c"
        );
    }
}
