//! Each thing has one name in the log, so that whoever looks for it asks for one field. A new field is listed here once it is sure that
//! what it names has no name yet; those that operators search for are in the book.

use std::collections::BTreeSet;

use tidegate_tests::Document;

use super::host_sources;

const MACROS: [&str; 6] = [
    "error!(", "warn!(", "info!(", "debug!(", "trace!(", "_span!(",
];

/// What operators search for, which the book explains.
const SEARCHED: [&str; 23] = [
    "condition",
    "connection",
    "dead_letter_topic",
    "error",
    "events",
    "fence",
    "on_failure",
    "owner",
    "path",
    "pause_ms",
    "peer",
    "plugin",
    "position",
    "principal",
    "producer",
    "reason",
    "retry_ms",
    "revision",
    "subject",
    "subscription",
    "topic",
    "version",
    "ward",
];

/// What stands in one line or two, and explains itself there.
const OTHERS: &str = "addr admin admin_connections admin_tls asked at attempts bytes clean client client_auth code connections \
    consumers current dead_letters differing digest first_gone first_new first_topics free free_name generation gone grants journal \
    journal_bytes_max journal_groups kept kept_aside kind left_out limits lines loss maximum method missing new next_position offset \
    open_files panic pending quic recv_bytes removed rules send_bytes signal status stay stream stretches subscriptions task tasks thread \
    times topics trace uri used";

#[test]
fn fields_of_log_lines_are_those_that_are_listed() {
    let mut found = BTreeSet::new();
    let mut unlisted = Vec::new();
    let known: BTreeSet<&str> = SEARCHED
        .into_iter()
        .chain(OTHERS.split_whitespace())
        .collect();
    for (path, source) in host_sources() {
        for field in fields(&source) {
            if !known.contains(field.as_str()) {
                unlisted.push(format!("{path}: {field}"));
            }
            found.insert(field);
        }
    }
    assert!(
        unlisted.is_empty(),
        "has what they name a name already? {unlisted:#?}"
    );
    let over: Vec<_> = known
        .iter()
        .filter(|name| !found.contains(**name))
        .collect();
    assert!(over.is_empty(), "no line has them, take them off: {over:?}");
}

#[test]
fn the_book_names_the_fields_that_are_searched_for() {
    let page = Document::read("host/docs/src/operate/watching.md").expect("the page");
    let missing: Vec<_> = SEARCHED
        .iter()
        .filter(|name| !page.text.contains(&format!("`{name}`")))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

// Names of the fields in all log lines and spans of a source.
fn fields(source: &str) -> Vec<String> {
    let mut fields = Vec::new();
    for name in MACROS {
        for (at, _) in source.match_indices(name) {
            let of_ours = source[..at].ends_with("tracing::")
                || !source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                || name == "_span!(";
            if of_ours {
                fields.extend(
                    arguments(&source[at + name.len()..])
                        .iter()
                        .filter_map(|argument| field(argument)),
                );
            }
        }
    }
    fields
}

// What stands between commas up to the parenthesis that closes a call.
fn arguments(call: &str) -> Vec<String> {
    let (mut arguments, mut depth, mut is_text, mut is_escaped) =
        (vec![String::new()], 0, false, false);
    for c in call.chars() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = is_text,
            '"' => is_text = !is_text,
            _ if is_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(argument) = arguments.last_mut() {
            argument.push(c);
        }
    }
    arguments
}

// `None` for a message, a parent or a target.
fn field(argument: &str) -> Option<String> {
    let argument = argument.trim().trim_start_matches(['%', '?', '&']);
    let end = argument
        .find(|c: char| !c.is_ascii_lowercase() && c != '_')
        .unwrap_or(argument.len());
    let (name, rest) = argument.split_at(end);
    let rest = rest.trim_start();
    let is_field =
        !name.is_empty() && (rest.is_empty() || (rest.starts_with('=') && !rest.starts_with("==")));
    is_field.then(|| name.to_owned())
}

#[test]
fn fields_are_seen_in_every_form() {
    let check = |source: &str, expected: &[&str]| assert_eq!(fields(source), expected, "{source}");
    check(
        r#"tracing::warn!(subscription = %live.name, %error, ?after, count, "text, {x} = 1");"#,
        &["subscription", "error", "after", "count"],
    );
    check(
        r#"info!(parent: &self.span, n = f(a, "b)"), "connected");"#,
        &["n"],
    );
    check(
        r#"error_span!("lane", plugin = %label, ward)"#,
        &["plugin", "ward"],
    );
    check(
        r#"tracing::warn!("{}", warned(warning)); my_info!(x);"#,
        &[],
    );
}
