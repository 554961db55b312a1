//! Lines as JSON, with the fields of the spans that a line is from beside its own, so that whoever looks for a subscription, a
//! plugin or a principal asks for one key. Which lines there are, and where they go, is not known here.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{self, Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::domain::plain_json;

/// What `tracing-subscriber` writes, and the fields of all spans at the top. A field of the line itself goes before one of a span,
/// and one of an inner span before one of an outer.
pub(super) struct Lifted(Format<Json>);

impl Lifted {
    pub(super) fn new() -> Self {
        Self(format::format().json().flatten_event(true))
    }
}

impl<S, N> FormatEvent<S, N> for Lifted
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let Some(scope) = context.event_scope() else {
            return writer.write_str(&plain_json(&line));
        };
        // From the inner ones to the outer ones. The list that the line has itself lacks them where it names its span.
        let spans = scope.filter_map(|span| {
            let extensions = span.extensions();
            let formatted = extensions.get::<FormattedFields<N>>()?;
            serde_json::from_str(formatted).ok()
        });
        let line = lifted(&line, spans).unwrap_or(line);
        writer.write_str(&plain_json(&line))
    }
}

// `None` when the line is no object.
fn lifted(line: &str, spans: impl Iterator<Item = Map<String, Value>>) -> Option<String> {
    let own: Map<String, Value> = serde_json::from_str(line).ok()?;
    let mut known: BTreeSet<String> = own.into_iter().map(|(name, _)| name).collect();
    let end = line.rfind('}')?;
    let mut lifted = line.get(..end)?.to_owned();
    for (name, value) in spans.flatten() {
        if !known.contains(&name) {
            lifted.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
            known.insert(name);
        }
    }
    lifted.push_str(line.get(end..)?);
    Some(lifted)
}

#[cfg(test)]
mod tests {
    use tracing::{error_span, warn};

    use super::super::testing::Written;
    use super::*;

    // Nothing that JSON asks to be escaped.
    const HOSTILE: &str = "\u{9b}31m\u{202e}\u{2028}";

    #[test]
    fn a_line_has_the_fields_of_its_spans_and_its_own_before_them() {
        let written = Written::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(written.writer())
            .json()
            .event_format(Lifted::new())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            warn!(subscription = "alone", said = HOSTILE, "first");
            let session = error_span!("session", principal = "cn:\"a\"", kind = "outer", topic = 1);
            let stream = error_span!(parent: &session, "stream", kind = "inner", topic = 2);
            warn!(parent: &stream, topic = "orders", "second");
        });
        let text = written.text();
        let lines = text.lines().map(serde_json::from_str::<Value>);
        let lines: Vec<Value> = lines.map(|line| line.expect("JSON")).collect();
        let [first, second] = &lines[..] else {
            panic!("{text}");
        };
        assert!(!text.contains(HOSTILE), "{text:?}");
        assert_eq!(first["said"], HOSTILE);
        assert_eq!(first["subscription"], "alone");
        assert_eq!(first["message"], "first");
        let expected = [
            ("message", "second"),
            ("principal", "cn:\"a\""),
            ("kind", "inner"),
            ("topic", "orders"),
            ("level", "WARN"),
        ];
        for (name, value) in expected {
            assert_eq!(second[name], value, "{text}");
        }
        assert_eq!(second["span"]["name"], "stream", "as before");
    }
}
