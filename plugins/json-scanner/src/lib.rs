//! A JSON scanner, which the bundled plugins read payloads and configurations with. It accepts the same documents whether a value
//! is read or skipped: what a filter skips depends on the other rules of an instance, so with a laxer skip the verdict of one
//! rule could depend on its neighbours. Builds no values; numbers and strings come as they stand in the document.

use std::borrow::Cow;

/// Deeper documents are refused, read or skipped.
pub const DEPTH_MAX: usize = 128;

/// Not JSON, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Byte offset.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    Text,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A string as it stands in the document, without its quotes.
#[derive(Clone, Copy, Debug)]
pub struct RawText<'a> {
    text: &'a str,
    escaped: bool,
}

impl<'a> RawText<'a> {
    /// As it stands there, escapes included.
    #[must_use]
    pub fn raw(self) -> &'a str {
        self.text
    }

    /// Whether it has escapes, so that [`raw`](Self::raw) is not what it says.
    #[must_use]
    pub fn is_escaped(self) -> bool {
        self.escaped
    }

    /// What it says. Half a surrogate pair becomes U+FFFD.
    #[inline]
    #[must_use]
    pub fn decode(self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.text))
        } else {
            Cow::Borrowed(self.text)
        }
    }
}

/// Reads a document from front to back.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Scanner<'a> {
    /// Begins at the front.
    #[inline]
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        Self {
            text,
            position: 0,
            depth: 0,
        }
    }

    /// Where it stands, in bytes.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// The kind of the value that comes next.
    #[inline]
    pub fn kind(&mut self) -> Result<Kind, Malformed> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => Ok(Kind::Text),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.malformed("want a value")),
        }
    }

    /// Enters an object or array; [`kind`](Self::kind) has said that it is one.
    #[inline]
    pub fn enter(&mut self) -> Result<(), Malformed> {
        if self.depth == DEPTH_MAX {
            return Err(self.malformed("nested too deep"));
        }
        self.depth += 1;
        self.position += 1;
        Ok(())
    }

    /// The name of the object's next member, with its value next, or the object's end.
    #[inline]
    pub fn next_member(&mut self, first: &mut bool) -> Result<Option<RawText<'a>>, Malformed> {
        if self.at_end(first, b'}', "want `,` or `}`")? {
            return Ok(None);
        }
        if self.peek() != Some(b'"') {
            return Err(self.malformed("want a member's name in quotes"));
        }
        let name = self.text()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.malformed("want `:`"));
        }
        self.position += 1;
        Ok(Some(name))
    }

    /// Whether the array has another element, which is then next.
    #[inline]
    pub fn next_element(&mut self, first: &mut bool) -> Result<bool, Malformed> {
        Ok(!self.at_end(first, b']', "want `,` or `]`")?)
    }

    /// A string; [`kind`](Self::kind) has said that it is one.
    #[inline]
    pub fn text(&mut self) -> Result<RawText<'a>, Malformed> {
        let bytes = self.text.as_bytes();
        let start = self.position + 1;
        let mut escaped = false;
        let mut at = start;
        loop {
            at = plain_until(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape_end(at)?;
                }
                Some(_) => return Err(Malformed::at(at, "control character in a string")),
                None => return Err(Malformed::at(at, "string without an end")),
            }
        }
        self.position = at + 1;
        // Both ends stand beside an ASCII quote, so they are boundaries.
        let text = self.text.get(start..at).unwrap_or_default();
        Ok(RawText { text, escaped })
    }

    /// A number; [`kind`](Self::kind) has said that it is one.
    #[inline]
    pub fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.position;
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        if self.peek() == Some(b'0') {
            self.position += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.digits()?;
        }
        Ok(self.text.get(start..self.position).unwrap_or_default())
    }

    /// `true`, `false`; [`kind`](Self::kind) has said that it is one.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        let value = self.peek() == Some(b't');
        self.word(if value { "true" } else { "false" })?;
        Ok(value)
    }

    /// `null`.
    #[inline]
    pub fn null(&mut self) -> Result<(), Malformed> {
        self.word("null")
    }

    /// Passes over a value, as strictly as if it were read.
    pub fn skip(&mut self) -> Result<(), Malformed> {
        match self.kind()? {
            Kind::Null => self.null(),
            Kind::Bool => self.bool().map(drop),
            Kind::Number => self.number().map(drop),
            Kind::Text => self.text().map(drop),
            Kind::Array => {
                self.enter()?;
                let mut first = true;
                while self.next_element(&mut first)? {
                    self.skip()?;
                }
                Ok(())
            }
            Kind::Object => {
                self.enter()?;
                let mut first = true;
                while self.next_member(&mut first)?.is_some() {
                    self.skip()?;
                }
                Ok(())
            }
        }
    }

    /// Nothing but white space may follow.
    #[inline]
    pub fn end(&mut self) -> Result<(), Malformed> {
        self.skip_space();
        if self.position == self.text.len() {
            Ok(())
        } else {
            Err(self.malformed("something follows the document"))
        }
    }

    /// Passes the comma before the next item, or the bracket behind the last one.
    #[inline]
    fn at_end(
        &mut self,
        first: &mut bool,
        close: u8,
        want: &'static str,
    ) -> Result<bool, Malformed> {
        self.skip_space();
        let is_first = std::mem::replace(first, false);
        match self.peek() {
            Some(byte) if byte == close => {
                self.position += 1;
                self.depth -= 1;
                return Ok(true);
            }
            _ if is_first => {}
            Some(b',') => {
                self.position += 1;
                self.skip_space();
            }
            _ => return Err(self.malformed(want)),
        }
        Ok(false)
    }

    /// The place behind the escape at `at`.
    fn escape_end(&self, at: usize) -> Result<usize, Malformed> {
        let bytes = self.text.as_bytes();
        match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                let digits = bytes.get(at + 2..at + 6);
                if digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    Ok(at + 6)
                } else {
                    Err(Malformed::at(at, "want four hexadecimal digits"))
                }
            }
            _ => Err(Malformed::at(at, "unknown escape")),
        }
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
        if self.position == start {
            return Err(self.malformed("want a digit"));
        }
        Ok(())
    }

    #[inline]
    fn word(&mut self, word: &str) -> Result<(), Malformed> {
        let end = self.position + word.len();
        if self.text.as_bytes().get(self.position..end) != Some(word.as_bytes()) {
            return Err(self.malformed("want a value"));
        }
        self.position = end;
        Ok(())
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn malformed(&self, what: &'static str) -> Malformed {
        Malformed::at(self.position, what)
    }
}

impl Malformed {
    #[cold]
    fn at(offset: usize, what: &'static str) -> Self {
        Self { offset, what }
    }
}

/// Line and column of a place in a text: both counted from 1, columns in characters.
#[must_use]
pub fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..text.floor_char_boundary(offset)).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    (line, 1 + before[start..].chars().count())
}

/// The first place from `at` on with a quote, a backslash or a control character: eight bytes at a time, since skipping
/// strings is most of the work on an event.
#[inline]
fn plain_until(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quotes = zeros(word ^ (ONES * u64::from(b'"')));
        let backslashes = zeros(word ^ (ONES * u64::from(b'\\')));
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let hits = quotes | backslashes | controls;
        if hits != 0 {
            // A borrow can only make a false hit above a true one, so the lowest is true.
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' || byte == b'\\' || byte < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// Decodes the escapes of a string that the scanner has passed. Half a surrogate pair becomes U+FFFD.
#[must_use]
pub fn unescape(raw: &str) -> String {
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        decoded.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        let mut length = 2;
        match escape {
            b'b' => decoded.push('\u{8}'),
            b'f' => decoded.push('\u{c}'),
            b'n' => decoded.push('\n'),
            b'r' => decoded.push('\r'),
            b't' => decoded.push('\t'),
            b'u' => {
                let (unit, size) = unicode_escape(&rest[at..]);
                decoded.push(unit);
                length = size;
            }
            other => decoded.push(char::from(other)),
        }
        rest = rest.get(at + length..).unwrap_or_default();
    }
    decoded.push_str(rest);
    decoded
}

/// The character of one `\uXXXX`, or of two that make a surrogate pair, and how many bytes they take.
fn unicode_escape(text: &str) -> (char, usize) {
    let unit = |from: usize| -> Option<u32> {
        (text.get(from..from + 2)? == "\\u")
            .then(|| u32::from_str_radix(text.get(from + 2..from + 6)?, 16).ok())?
    };
    let first = unit(0).unwrap_or(0xfffd);
    if let 0xd800..=0xdbff = first
        && let Some(second @ 0xdc00..=0xdfff) = unit(6)
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or('\u{fffd}'), 12);
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that a document is read as `want`, or refused by reading and skipping alike.
    fn check(text: &str, want: Option<&str>) {
        assert_eq!(shown(text).ok().as_deref(), want, "{text}");
        let mut scanner = Scanner::new(text);
        let skipped = scanner.skip().and_then(|()| scanner.end());
        assert_eq!(skipped.is_ok(), want.is_some(), "skip {text}");
    }

    fn shown(text: &str) -> Result<String, Malformed> {
        let mut scanner = Scanner::new(text);
        let shown = value(&mut scanner)?;
        scanner.end()?;
        Ok(shown)
    }

    // Without white space, and strings decoded.
    fn value(scanner: &mut Scanner<'_>) -> Result<String, Malformed> {
        let mut first = true;
        let mut parts = Vec::new();
        Ok(match scanner.kind()? {
            Kind::Null => scanner.null().map(|()| "null".to_string())?,
            Kind::Bool => scanner.bool()?.to_string(),
            Kind::Number => scanner.number()?.to_string(),
            Kind::Text => scanner.text()?.decode().into_owned(),
            Kind::Array => {
                scanner.enter()?;
                while scanner.next_element(&mut first)? {
                    parts.push(value(scanner)?);
                }
                format!("[{}]", parts.join(","))
            }
            Kind::Object => {
                scanner.enter()?;
                while let Some(name) = scanner.next_member(&mut first)? {
                    parts.push(format!("{}:{}", name.decode(), value(scanner)?));
                }
                format!("{{{}}}", parts.join(","))
            }
        })
    }

    #[test]
    fn values() {
        check(" null ", Some("null"));
        check("true", Some("true"));
        check("-1.5e+3", Some("-1.5e+3"));
        check("1e400", Some("1e400"));
        check("[]", Some("[]"));
        check("{ }", Some("{}"));
        check(
            r#"[1, {"a":null ,"a":[false]}]"#,
            Some("[1,{a:null,a:[false]}]"),
        );
    }

    #[test]
    fn strings() {
        check(r#""""#, Some(""));
        check(r#""twelve bytes and é""#, Some("twelve bytes and é"));
        check(r#""a\"b\\c\/\b\f\n\r\t""#, Some("a\"b\\c/\u{8}\u{c}\n\r\t"));
        check(
            r#""\u00e9\ud83d\ude00 \ud83d \ude00""#,
            Some("é😀 \u{fffd} \u{fffd}"),
        );
        check(r#""\ud83d\u0041""#, Some("\u{fffd}A"));
        for at in 0..20 {
            let mut control = "x".repeat(20);
            control.replace_range(at..=at, "\n");
            check(&format!("\"{control}\""), None);
        }
    }

    #[test]
    fn places_are_lines_and_columns_of_characters() {
        let text = "{\n \"é\": x}";
        let offset = text.find('x').expect("it is there");
        assert_eq!(line_and_column(text, offset), (2, 7));
        assert_eq!(line_and_column(text, 0), (1, 1));
        assert_eq!(line_and_column(text, 999), (2, 9));
        assert_eq!(line_and_column("é", 1), (1, 1));
    }

    #[test]
    fn refused() {
        for bad in [
            "",
            " ",
            "nul",
            "nulll",
            "01",
            "1.",
            ".5",
            "1e",
            "-",
            "+1",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "1 2",
            "[}",
            "{]",
            "'a'",
            "NaN",
        ] {
            check(bad, None);
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(shown(&nested(DEPTH_MAX)).is_ok());
        check(&nested(DEPTH_MAX + 1), None);
    }
}
