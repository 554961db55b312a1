//! Others' words as they may be shown. What publishers, plugins, certificates and peers say is quoted in the log, in errors and by the
//! command line; with line ends in it it would pass for lines of the broker, and with control sequences it would move a terminal's
//! cursor, change its colours or worse. So whatever shows text to people goes through one of these, and nothing is left out.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a terminal or an editor shows it where it stands: no control character, end of a line, change of direction, or what shows
/// nothing, by which two texts that differ would look alike.
#[must_use]
pub fn is_plain(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}') && !shows_nothing(c)
}

// What Unicode says to be ignored where it is not known (`Default_Ignorable_Code_Point`, the marks of direction among it), and what is
// blank beside that without being a space.
fn shows_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// `text` on one line, with what is not plain written out (`\n`, `\u{1b}`).
#[must_use]
pub fn plain_text(text: &str) -> Cow<'_, str> {
    shown(text, is_plain, |out, c| out.extend(c.escape_default()))
}

/// The same of what may have lines and columns of its own.
#[must_use]
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    let stays = |c| is_plain(c) || matches!(c, '\n' | '\t');
    shown(text, stays, |out, c| out.extend(c.escape_default()))
}

/// The same of JSON, which stays the same value: what may stand between its tokens stays, and the rest is in its strings.
#[must_use]
pub fn plain_json(json: &str) -> Cow<'_, str> {
    let stays = |c| is_plain(c) || matches!(c, '\n' | '\t' | '\r');
    shown(json, stays, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// `text` as one word of a command that is shown to be typed.
#[must_use]
pub fn shell_word(text: &str) -> Cow<'_, str> {
    let stays = |c: char| c.is_alphanumeric() || "-_.:/@".contains(c);
    match !text.is_empty() && text.chars().all(stays) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

fn shown(
    text: &str,
    stays: impl Fn(char) -> bool,
    escape: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    let Some(first) = text.find(|c| !stays(c)) else {
        return Cow::Borrowed(text);
    };
    let (plain, rest) = text.split_at(first);
    let mut out = plain.to_owned();
    for c in rest.chars() {
        match stays(c) {
            true => out.push(c),
            false => escape(&mut out, c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\r\n2026 ERROR b\t\0\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{2028}, größer";

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        let shown = plain_text(HOSTILE);
        assert_eq!(
            shown,
            r"a\r\n2026 ERROR b\t\u{0}\u{1b}[31m\u{7f}\u{9b}\u{202e}\u{2028}, größer"
        );
        assert!(shown.chars().all(is_plain));
        let lines = plain_lines(HOSTILE);
        assert_eq!(lines.lines().count(), 2);
        assert!(lines.contains("\t\\u{0}\\u{1b}[31m"), "{lines}");
        assert!(matches!(plain_text("größer 大"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_shows_nothing_is_written_out() {
        for (text, shown) in [
            ("a\u{200b}b", r"a\u{200b}b"),
            ("a\u{ad}b\u{2060}", r"a\u{ad}b\u{2060}"),
            ("\u{200d}\u{feff}\u{fe0f}", r"\u{200d}\u{feff}\u{fe0f}"),
            ("\u{3164}\u{2800}\u{115f}", r"\u{3164}\u{2800}\u{115f}"),
            ("\u{e0041}\u{180e}", r"\u{e0041}\u{180e}"),
            ("e\u{301} a\u{a0}b 大 ☃", "e\u{301} a\u{a0}b 大 ☃"),
        ] {
            assert_eq!(plain_text(text), shown);
            assert_eq!(plain_lines(text), shown);
        }
        assert_eq!(plain_json("\"\u{e0041}\""), r#""\udb40\udc41""#);
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({ "said": HOSTILE, "list": ["\u{10ffff}", 1] });
        for json in [
            value.to_string(),
            serde_json::to_string_pretty(&value).expect("JSON"),
        ] {
            let plain = plain_json(&json);
            let back: serde_json::Value = serde_json::from_str(&plain).expect("still JSON");
            assert_eq!(back, value);
            let controls = |c: char| !is_plain(c) && c != '\n';
            assert!(!plain.contains(controls), "{plain:?}");
        }
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        for (text, word) in [
            ("dead.a-b/c", "dead.a-b/c"),
            ("a$b", "'a$b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
