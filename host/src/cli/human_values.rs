//! Turning what people type into values, and values into what people read. Pure.

use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};

/// A duration with its unit, in milliseconds: `500ms`, `2.9s`, `30s`, `5m`, `2h`, `1d`.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => {
            return Err("write a number with its unit: 500ms, 2.9s, 30s, 5m, 2h or 1d".to_owned());
        }
    };
    match number.split_once('.') {
        None => whole_ms(number, scale),
        Some((whole, part)) => {
            let ms = whole_ms(whole, scale)?.checked_add(part_ms(part, scale)?);
            ms.ok_or_else(too_long)
        }
    }
}

fn whole_ms(number: &str, scale: u64) -> Result<u64, String> {
    let number: u64 = number
        .parse()
        .map_err(|_| format!("`{number}` is not a number"))?;
    number.checked_mul(scale).ok_or_else(too_long)
}

// What stands behind the point.
fn part_ms(digits: &str, scale: u64) -> Result<u64, String> {
    let finer = || "a millisecond is the shortest time there is here".to_owned();
    let parts = u32::try_from(digits.len())
        .ok()
        .and_then(|digits| 10_u64.checked_pow(digits))
        .ok_or_else(finer)?;
    let ms = whole_ms(digits, scale)?;
    match ms % parts {
        0 => Ok(ms / parts),
        _ => Err(finer()),
    }
}

fn too_long() -> String {
    "the time is too long".to_owned()
}

/// Milliseconds of a limit, within which something has to happen.
pub(super) fn limit_ms(text: &str) -> Result<u64, String> {
    match duration_ms(text)? {
        0 => Err("nothing happens within no time; write 500ms, 5s or more".to_owned()),
        ms => Ok(ms),
    }
}

/// The variant of an enum by the word the API has for it.
pub(super) fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let deserializer: StrDeserializer<'_, ValueError> = text.into_deserializer();
    T::deserialize(deserializer).map_err(|error| error.to_string())
}

/// The word the API has for a variant.
pub(super) fn word_of(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// `name=value`, split at the first `=`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write name=value".to_owned()),
    }
}

/// An absolute URI: a scheme, a colon and more, in printable ASCII. What the rest means is nobody's business here.
pub(super) fn uri(text: &str) -> Result<String, String> {
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let well_formed = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(of_scheme)
        && !rest.is_empty()
        && rest.chars().all(|c| c.is_ascii_graphic());
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err("write SCHEME:REST without spaces, such as spiffe://plant/press-4".to_owned())
    }
}

/// Whether `text` is a host, in brackets if it is an IPv6 address, and a port.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    port.parse::<u16>().is_ok() && !host.is_empty() && (bracketed || !host.contains(':'))
}

/// Milliseconds in the largest unit that keeps two digits: `850ms`, `12s`, `5m`, `3h`, `9d`.
pub(super) fn age(ms: u64) -> String {
    match ms {
        0 => "-".to_owned(),
        1..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}s", ms / 1_000),
        120_000..7_200_000 => format!("{}m", ms / 60_000),
        7_200_000..172_800_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

/// The same of what may not be known: `?`.
pub(super) fn age_if_known(ms: Option<u64>) -> String {
    ms.map_or_else(|| "?".to_owned(), age)
}

/// Bytes in KiB or MiB with one decimal.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// A moment, as `2026-05-04 13:37:00Z`.
pub(super) fn moment(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    match time::OffsetDateTime::from_unix_timestamp(seconds) {
        Ok(at) if ms > 0 => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        ),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{FailurePolicy, StartAt};

    #[test]
    fn a_uri_has_a_scheme() {
        for text in ["spiffe://plant/press-4", "urn:a:b"] {
            assert_eq!(uri(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "press-4",
            "press 4:x",
            ":x",
            "x:",
            "1x:y",
            "x:y z",
            "x:é",
        ] {
            assert!(uri(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for text in ["localhost:4433", "127.0.0.1:1", "[::1]:4433"] {
            assert!(is_host_and_port(text), "{text}");
        }
        for text in ["localhost", ":4433", "a:b", "a:70000", "::1", "https://a:1"] {
            assert!(!is_host_and_port(text), "{text}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(duration_ms(text).ok(), expected, "{text}");
        };
        check("500ms", Some(500));
        check("30s", Some(30_000));
        check("5m", Some(300_000));
        check("0s", Some(0));
        check("1d", Some(86_400_000));
        check("2.9s", Some(2_900));
        check("0.25h", Some(900_000));
        check("1.0ms", Some(1));
        for bad in [
            "30",
            "s",
            "",
            "1.5ms",
            "1.0001s",
            "1.s",
            ".5s",
            "1.2.3s",
            "1.00000000000000000000s",
            "-1s",
            "1 s",
            "99999999999999999d",
            "3w",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn words_are_the_api_s() {
        assert_eq!(word::<StartAt>("earliest"), Ok(StartAt::Earliest));
        assert_eq!(word_of(&FailurePolicy::DeadLetter), "dead-letter");
        let error = word::<StartAt>("oldest").expect_err("no such word");
        assert!(
            error.contains("`new`") && error.contains("`earliest`"),
            "{error}"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(age(119_999), "119s");
        assert_eq!(age(120_000), "2m");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(moment(1_000_000_000_000), "2001-09-09 01:46:40Z");
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(pair("=b").is_err() && pair("ab").is_err());
    }
}
