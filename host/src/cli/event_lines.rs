//! One delivered event as one line: for people, or as JSON that `tidegate pub --events` takes back. Pure.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, bail};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tidegate_client::Event;

use crate::domain::{plain_json, plain_lines, plain_text};

/// Where a delivery stands, apart from the event itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) sequence: u64,
    pub(super) position: u64,
    pub(super) attempt: u32,
    pub(super) time_ms: u64,
    /// Which part of its delivery, and of how many.
    pub(super) part: usize,
    pub(super) parts: usize,
}

/// A header's value, or its values when the name occurs more than once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Fields {
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "each_name_once"
    )]
    headers: BTreeMap<String, Values>,
    #[serde(skip_serializing_if = "String::is_empty")]
    content_type: String,
    // As it stands there: digits, order of names and `null` are the publisher's.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "verbatim")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    sequence: u64,
    position: u64,
    attempt: u32,
    time_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<usize>,
    #[serde(flatten)]
    fields: Fields,
}

/// The event as one line of JSON. A JSON payload is `payload`, other text `text`, and the rest `base64`.
pub(super) fn to_json(place: &Place<'_>, event: &Event) -> anyhow::Result<String> {
    let mut fields = Fields {
        id: event.id.clone(),
        headers: grouped(&event.headers),
        content_type: event.content_type.clone(),
        ..Fields::default()
    };
    match event.key.as_deref().map(std::str::from_utf8) {
        Some(Ok(text)) => fields.key = Some(text.to_owned()),
        Some(Err(_)) => fields.key_base64 = event.key.as_deref().map(base64),
        None => {}
    }
    let json = json_text(event);
    match (json, std::str::from_utf8(&event.payload)) {
        (Some(_), _) => {}
        (None, Ok(text)) => fields.text = Some(text.to_owned()),
        (None, Err(_)) => fields.base64 = Some(base64(&event.payload)),
    }
    let (part, parts) = (place.parts > 1)
        .then_some((place.part, place.parts))
        .unzip();
    let &Place {
        topic,
        sequence,
        position,
        attempt,
        time_ms,
        ..
    } = place;
    let mut line = serde_json::to_string(&Line {
        topic,
        sequence,
        position,
        attempt,
        time_ms,
        part,
        parts,
        fields,
    })?;
    if let Some(json) = json {
        // As it was published, digit for digit; only line breaks, which mean nothing in JSON, are replaced.
        line.truncate(line.len() - 1);
        line.push_str(",\"payload\":");
        line.extend(
            json.trim()
                .chars()
                .map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }),
        );
        line.push('}');
    }
    Ok(plain_json(&line).into_owned())
}

/// The event in a line that [`to_json`] made, or that was written like it.
pub(super) fn from_json(line: &str) -> anyhow::Result<Event> {
    // An array would be read as the fields in their order, which nobody means.
    if !line.trim_start().starts_with('{') {
        bail!("an event is a JSON object, as `tidegate sub --ndjson` prints it");
    }
    let fields: Fields = serde_json::from_slice(line.as_bytes())
        .map_err(in_a_line)
        .context("this is no event as `tidegate sub --ndjson` prints it")?;
    let payload = match (fields.payload, fields.text, fields.base64) {
        (Some(json), None, None) => json.get().as_bytes().to_vec(),
        (None, Some(text), None) => text.into_bytes(),
        (None, None, Some(base64)) => from_base64(&base64)?,
        // Fields that are not known are none of an event's own, so a payload under a wrong name would be lost.
        (None, None, None) => bail!(
            "an event has one of `payload`, `text` and `base64`; one without content has `\"text\": \"\"`"
        ),
        _ => bail!("an event has one of `payload`, `text` and `base64`"),
    };
    let mut event = Event::new(payload)
        .with_id(fields.id)
        .with_content_type(fields.content_type);
    event.key = match (fields.key, fields.key_base64) {
        (Some(text), None) => Some(text.into_bytes().into()),
        (None, Some(base64)) => Some(from_base64(&base64)?.into()),
        (None, None) => None,
        _ => bail!("an event has one of `key` and `key_base64`"),
    };
    for (name, values) in fields.headers {
        match values {
            Values::One(value) => event.headers.push((name, value)),
            Values::Many(values) => event
                .headers
                .extend(values.into_iter().map(|value| (name.clone(), value))),
        }
    }
    Ok(event)
}

/// What the parser of JSON says of a line, without its own number of the line, which is always the first.
pub(super) fn in_a_line(error: serde_json::Error) -> anyhow::Error {
    let told = error.to_string();
    let column = error.column();
    let place = format!(" at line {} column {column}", error.line());
    match told.strip_suffix(&place) {
        Some(what) => anyhow::anyhow!("{what}, at byte {column}"),
        None => anyhow::anyhow!(told),
    }
}

/// The event for a person.
pub(super) fn to_human(place: &Place<'_>, event: &Event) -> String {
    let mut line = format!("{} #{}", place.topic, place.sequence);
    if place.attempt > 1 {
        line.push_str(&format!(" (attempt {})", place.attempt));
    }
    if place.parts > 1 {
        line.push_str(&format!(" [{}/{}]", place.part + 1, place.parts));
    }
    if let Some(key) = &event.key {
        line.push_str(&format!(" key={}", String::from_utf8_lossy(key)));
    }
    for (name, value) in &event.headers {
        line.push_str(&format!(" {name}={value}"));
    }
    let payload = match std::str::from_utf8(&event.payload) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("<{} bytes>", event.payload.len()),
    };
    // Whatever a publisher put in, the terminal gets no control sequences, and only a payload has lines of its own. None of them begins
    // where those of events do.
    let payload = plain_lines(&payload).replace('\n', "\n    ");
    format!("{}: {payload}", plain_text(&line))
}

// A `null` is a payload, too.
fn verbatim<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

// A header that has several values names them in a list. Said twice, one of them would be lost.
fn each_name_once<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Values>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = BTreeMap<String, Values>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("headers by name")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
            let mut headers = BTreeMap::new();
            while let Some((name, values)) = fields.next_entry::<String, Values>()? {
                if headers.contains_key(&name) {
                    let name = plain_text(&name);
                    return Err(A::Error::custom(format_args!(
                        "`{name}` stands twice in `headers`; a header's values are a list"
                    )));
                }
                headers.insert(name, values);
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_map(Headers)
}

fn json_text(event: &Event) -> Option<&str> {
    let media_type = event
        .content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if media_type != "application/json" && !media_type.ends_with("+json") {
        return None;
    }
    let text = std::str::from_utf8(&event.payload).ok()?;
    serde_json::from_slice::<IgnoredAny>(text.as_bytes()).ok()?;
    Some(text)
}

fn grouped(headers: &[(String, String)]) -> BTreeMap<String, Values> {
    let mut grouped: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        grouped.entry(name.clone()).or_default().push(value.clone());
    }
    let values = |mut values: Vec<String>| match (values.len(), values.pop()) {
        (1, Some(value)) => Values::One(value),
        (_, last) => Values::Many(values.into_iter().chain(last).collect()),
    };
    grouped
        .into_iter()
        .map(|(name, list)| (name, values(list)))
        .collect()
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let present = digit <= chunk.len();
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if present {
                char::from(BASE64[index])
            } else {
                '='
            });
        }
    }
    out
}

fn from_base64(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = BASE64.iter().position(|known| *known == byte);
        let digit =
            digit.with_context(|| format!("{:?} is no digit of base64", char::from(byte)))?;
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'_> = Place {
        topic: "a.b",
        sequence: 7,
        position: 9,
        attempt: 1,
        time_ms: 5,
        part: 0,
        parts: 1,
    };

    #[test]
    fn events_survive_the_round_trip() {
        let check = |event: Event, expected: &str| {
            let line = to_json(&PLACE, &event).expect("a line");
            assert!(line.contains(expected) && !line.contains('\n'), "{line}");
            assert_eq!(from_json(&line).expect("an event"), event, "{line}");
        };
        check(Event::new("plain"), r#""text":"plain""#);
        check(
            Event::json(r#"{"b":1,"n":2}"#),
            r#""payload":{"b":1,"n":2}}"#,
        );
        check(Event::json("not json"), r#""text":"not json""#);
        check(Event::new(vec![0xff, 0, 1]), r#""base64":"/wAB""#);
        check(
            Event::new("x").with_key("k").with_id("i"),
            r#""id":"i","key":"k""#,
        );
        check(
            Event::new("x").with_key(vec![0xfe]),
            r#""key_base64":"/g==""#,
        );
        check(
            Event::new("x")
                .with_header("a", "1")
                .with_header("a", "2")
                .with_header("b", "3"),
            r#""headers":{"a":["1","2"],"b":"3"}"#,
        );
        check(Event::new(""), r#""text":"""#);
    }

    #[test]
    fn a_part_says_of_how_many_it_is() {
        let place = Place {
            part: 1,
            parts: 3,
            ..PLACE
        };
        let line = to_json(&place, &Event::new("x")).expect("a line");
        assert!(line.contains(r#""part":1,"parts":3"#), "{line}");
        let line = to_json(&PLACE, &Event::new("x")).expect("a line");
        assert!(!line.contains("part"), "{line}");
    }

    #[test]
    fn a_json_payload_keeps_its_digits_and_its_line() {
        let event = Event::json("{\n \"n\": 0.10000000000000000000001\n}");
        let line = to_json(&PLACE, &event).expect("a line");
        assert!(
            line.ends_with(r#""payload":{  "n": 0.10000000000000000000001 }}"#),
            "{line}"
        );
        let same = |text: &str| from_json(text).expect("an event").payload;
        for payload in [
            r#"{  "n": 0.10000000000000000000001 }"#,
            r#"{"z":1,"a":12345678901234567890123,"z":1e400}"#,
            "null",
            "\"\\u00e9\"",
        ] {
            let line = to_json(&PLACE, &Event::json(payload)).expect("a line");
            assert_eq!(same(&line), payload, "{line}");
        }
    }

    #[test]
    fn a_header_is_named_once() {
        let event = from_json(r#"{"headers":{"a":["1","2"],"b":"3"},"text":"x"}"#);
        assert_eq!(event.expect("an event").headers.len(), 3);
        let twice = from_json(r#"{"headers":{"a":"1","a":"2"},"text":"x"}"#);
        let twice = format!("{:#}", twice.expect_err("a value would be lost"));
        assert!(twice.contains("`a` stands twice in `headers`"), "{twice}");
        assert!(twice.contains(", at byte"), "{twice}");
        let none = from_json(r#"{"txt":"x"}"#).expect_err("a text would be lost");
        assert!(none.to_string().contains("one of `payload`, `text`"));
        let empty = from_json(r#"{"text":""}"#).expect("an event without content");
        assert!(empty.payload.is_empty());
        let twice = from_json(r#"{"text":"x","text":"y"}"#).expect_err("a text would be lost");
        assert!(
            format!("{twice:#}").contains("duplicate field"),
            "{twice:#}"
        );
    }

    #[test]
    fn base64_of_every_length() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).expect("base64"), bytes.as_bytes());
        }
        assert!(from_base64("a b").is_err());
    }

    #[test]
    fn people_see_no_control_sequences() {
        let place = Place {
            attempt: 2,
            parts: 2,
            ..PLACE
        };
        let line = to_human(&place, &Event::new("a\x1b[2J\r\nb").with_header("h", "\nv"));
        assert_eq!(
            line,
            "a.b #7 (attempt 2) [1/2] h=\\nv: a\\u{1b}[2J\\r\n    b"
        );
        assert_eq!(
            to_human(&PLACE, &Event::new(vec![0xff])),
            "a.b #7: <1 bytes>"
        );
    }
}
