//! What the broker needs of the machine comes from outside, so that a run of all of it can be repeated: files that take time, threads,
//! sleep or files for themselves are listed here, each with its reason. The lists may only become shorter.

use super::host_sources;

/// A way to get at the machine, and the files that may use it.
struct Way {
    what: &'static str,
    instead: &'static str,
    is_used: fn(&str) -> bool,
    files: &'static [(&'static str, &'static str)],
}

const WAYS: &[Way] = &[
    Way {
        what: "monotonic time",
        instead: "take it from tokio's clock, or a `Clock`",
        is_used: takes_monotonic_time,
        files: &[
            ("runtime/clock.rs", "it is the clock"),
            (
                "telemetry/log_output.rs",
                "it writes the log to a file descriptor that somebody may not read, in real time",
            ),
        ],
    },
    Way {
        what: "wall time",
        instead: "take it from a `Clock`",
        is_used: takes_wall_time,
        files: &[
            ("runtime/clock.rs", "it is the clock"),
            ("pki.rs", "certificates are made before there is a broker"),
        ],
    },
    Way {
        what: "sleep on a thread",
        instead: "wait for a state, or sleep in a task",
        is_used: sleeps_on_its_thread,
        files: &[
            (
                "runtime/blocking_threads.rs",
                "it is where threads come from",
            ),
            (
                "telemetry/log_output.rs",
                "it writes the log to a file descriptor that somebody may not read, in real time",
            ),
            (
                "plugin/engine.rs",
                "it counts out the time that guests may run",
            ),
            (
                "config/contexts.rs",
                "commands and brokers write the same file, before any runtime is there",
            ),
        ],
    },
    Way {
        what: "files",
        instead: "go by `disk::FileSystem`",
        is_used: opens_files,
        files: &[
            ("disk/real.rs", "it is the disk"),
            (
                "disk/whole_file.rs",
                "it reads what others wrote, before there is a broker and beside it",
            ),
            (
                "telemetry/log_output.rs",
                "it duplicates the descriptor of the log",
            ),
            ("pki.rs", "read and written before there is a broker"),
            ("app/data_directory.rs", "makes the data directory"),
            (
                "plugin/compiled_cache.rs",
                "what it keeps can be made again",
            ),
        ],
    },
];

#[test]
fn time_threads_and_files_come_from_outside() {
    let sources: Vec<_> = host_sources()
        .into_iter()
        // The command line is the outside.
        .filter(|(path, _)| !path.starts_with("cli") && path != "main.rs")
        .collect();
    for way in WAYS {
        let users: Vec<&str> = sources
            .iter()
            .filter(|(_, source)| (way.is_used)(source))
            .map(|(path, _)| path.as_str())
            .collect();
        let is_listed = |path: &str| way.files.iter().any(|(file, _)| *file == path);
        let unlisted: Vec<_> = users.iter().filter(|path| !is_listed(path)).collect();
        assert!(
            unlisted.is_empty(),
            "{} in {unlisted:?}; {}",
            way.what,
            way.instead
        );
        let over: Vec<_> = way
            .files
            .iter()
            .filter(|(file, _)| !users.contains(file))
            .collect();
        assert!(
            over.is_empty(),
            "no longer use it, take them off the list: {over:?}"
        );
    }
}

#[test]
fn no_future_is_looked_at_by_lot() {
    let mut breaches = Vec::new();
    // The command line is the outside.
    let sources = host_sources().into_iter();
    for (path, source) in sources.filter(|(path, _)| !path.starts_with("cli")) {
        let in_order = source.matches("biased;").count();
        if source.matches("select! {").count() != in_order {
            breaches.push(path);
        }
    }
    assert!(
        breaches.is_empty(),
        "a select! is not biased in {breaches:?}"
    );
}

fn takes_monotonic_time(source: &str) -> bool {
    let imports_std = source.split("use std::").skip(1).any(|import| {
        let import = import.split(';').next().unwrap_or(import);
        import.contains("time::") && names(import, "Instant") && !import.contains("tokio")
    });
    source.contains("std::time::Instant::now") || (imports_std && source.contains("Instant::now("))
}

fn takes_wall_time(source: &str) -> bool {
    source.contains("SystemTime::now") || source.contains("::now_utc(")
}

fn sleeps_on_its_thread(source: &str) -> bool {
    source.contains("thread::sleep")
}

fn opens_files(source: &str) -> bool {
    source.contains("std::fs")
        || source.contains("tokio::fs")
        || source.contains("tempfile::")
        || source
            .split("use std::{")
            .skip(1)
            .any(|import| names(import.split(';').next().unwrap_or(import), "fs"))
}

fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == name)
}

#[test]
fn ways_to_the_machine_are_seen_in_every_form() {
    assert!(takes_monotonic_time(
        "use std::time::{Duration, Instant};\nlet x = Instant::now();"
    ));
    assert!(takes_monotonic_time("let x = std::time::Instant::now();"));
    assert!(!takes_monotonic_time(
        "use std::time::{Duration, Instant};\nfn f(now: Instant) {}"
    ));
    assert!(!takes_monotonic_time(
        "use std::time::Duration;\nuse tokio::time::Instant;\nInstant::now();"
    ));
    assert!(opens_files("use std::{fs, io};") && opens_files("use std::fs::File;"));
    assert!(!opens_files("use crate::store::fs::FileSystem;"));
}
